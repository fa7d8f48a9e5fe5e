"""``report.html``: a study's front to look at, a budget to move, configurations to compare, in one file.

The page is our own SVG and script, with scales and round numbers by d3-scale. Plotly would take nearly all of 5 MB by
itself, and its points cannot be reached with a keyboard. Nothing is ever loaded: the page forbids its browser to (its
content security policy).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bsr_explorer.config import Fidelity
from bsr_explorer.report.front import covered_text
from bsr_explorer.report.page.data import measurements, page_data
from bsr_explorer.report.page.layout import Layout
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.report.study.strip import Strip
from bsr_explorer.report.study.write import calibration_said
from bsr_explorer.store.records import write_text
from bsr_explorer.store.study import FILE, said_counts
from bsr_explorer.units import format_bytes, format_mb, format_mib, format_number, plural, spans

NAME = "report.html"

_HERE = Path(__file__).parent

SCRIPTS = (
    *("d3-scale.min", "data", "elements", "text", "axes", "memory", "front", "configuration", "budget"),
    *("grid", "fits", "compare", "calibration", "start"),
)
"""Files of the page's script, in the order that they are joined in: what a file computes at once stands before it."""


def write(
    found: Findings, folder: Path, layout: Layout | str, to: Path | None = None, strip: Strip | None = None
) -> Path:
    """Write the page of a study; returns its path.

    Args:
        folder: of the study, as commands are to name it.
        layout: all that the study may choose among; or, where that cannot be said, why.
        to: the folder to write into; None: the study's own.
        strip: what is said of tokens, if the recommended configuration drops some.

    Raises:
        OSError: the folder cannot be written.
    """
    path = (to or folder) / NAME
    write_text(path, html(found, folder, layout, strip))
    return path


def html(found: Findings, folder: Path, layout: Layout | str, strip: Strip | None = None) -> str:
    """The page. See ``write``."""
    grid = None if isinstance(layout, str) else layout.to_dict()
    css, code = (_HERE / "page.css").read_text(), script()
    return (
        Environment(
            loader=FileSystemLoader(_HERE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        .get_template("page.html.jinja")
        .render(
            css=Markup(css),
            script=Markup(code),
            policy=f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(code)}'",
            data=embedded({**page_data(found, folder), "grid": grid}),
            found=found,
            strip=strip,
            strip_image=_image(strip.file) if strip and strip.file else "",
            record=found.points[0].record,
            study=found.study,
            counts=said_counts(found.study["counts"], found.study.get("quantile", 1.0)),
            without_grid=layout if isinstance(layout, str) else None,
            measured=measurements(found),
            plural=plural,
            calibrated=calibration_said(list(measurements(found).values())),
            proxies={
                n: (r, Fidelity(**r.fidelity).brief) for n, r in found.records.items() if r.status == "proxy"
            },
            stopped={n: r for n, r in found.records.items() if r.status == "stopped"},
            failed={n: r for n, r in found.records.items() if r.failed},
            environment=environment(found),
            study_file=_text(folder / FILE),
            covered_text=covered_text,
            format_bytes=format_bytes,
            format_mb=format_mb,
            format_mib=format_mib,
            format_number=format_number,
        )
    )


def script() -> str:
    """The page's script: its files as one, with nothing global."""
    files = [(_HERE / "script" / f"{name}.js").read_text() for name in SCRIPTS]
    return "\n".join(['(() => {\n"use strict";', *files, "})();\n"])


def embedded(values: Any) -> Markup:
    """JSON that no value can end the element of, or begin another with."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def environment(found: Findings) -> dict[str, list[tuple[str, str]]]:
    """What each record was made with: its values by name, each with the trials that it is of (none if of all)."""
    said: dict[str, dict[str, list[int]]] = {}
    for number, record in sorted(found.records.items()):
        made = record.provenance
        of_record = {
            "data": record.data,
            "split": record.split,
            "weights": record.weights,
            **{name: made.get(key) for name, key in _PROVENANCE.items()},
        }
        for name, value in of_record.items():
            if value not in (None, ""):
                said.setdefault(name, {}).setdefault(str(value), []).append(number)
    every = len(found.records)
    times = [str(r.provenance["time"]) for r in found.records.values() if r.provenance.get("time")]
    if times:
        said["made"] = {_from_to(times): list(found.records)}
    return {
        name: [
            (value, "" if len(numbers) == every else _trials(numbers)) for value, numbers in values.items()
        ]
        for name, values in said.items()
    }


_PROVENANCE = {
    "command": "command",
    "commit": "commit",
    "bsr-explorer": "bsr_explorer",
    **{name: name for name in ("torch", "timm", "torchvision", "optuna", "numpy", "python", "platform")},
    **{name: name for name in ("processor", "cpus", "threads", "device")},
}


def _from_to(times: list[str]) -> str:
    first, last = min(times), max(times)
    return first if first == last else f"{first} to {last}"


def _trials(numbers: Iterable[int]) -> str:
    listed = list(numbers)
    return f"trial{'s' if len(listed) > 1 else ''} {spans(listed)}"


def _image(path: Path) -> str:
    """A picture as it stands within a page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
