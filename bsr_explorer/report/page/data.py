"""What the page's script works with: every trained configuration, what it holds block by block, and how to have it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import tokens_by_block, trained_blocks
from bsr_explorer.report import style
from bsr_explorer.report.commands import commands_for, profile_words
from bsr_explorer.report.figures.axes import MEMORY_AXIS
from bsr_explorer.report.front import Point
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import Record
from bsr_explorer.store.study import said_counts
from bsr_explorer.store.trials import replica, validation_images
from bsr_explorer.units import BYTE_UNITS, format_number, plural

METHOD, BATCH = "<method>", "<batch>"
"""What stands for the method and the batch size in the command that says a configuration's cost."""


def page_data(found: Findings, folder: Path) -> dict[str, Any]:
    """Plain values of a study for the page's script, but for its grid.

    Args:
        folder: of the study, as commands are to name it.
    """
    study, config = found.study, found.points[0].record.config
    families = sorted({style.family(point.method) for point in found.points}, key=style.order)
    return {
        "quality": {
            "name": found.quality.name,
            "column": found.quality.column,
            "points": found.quality.points,
            "decimals": found.quality.decimals,
        },
        "budget": found.budget,
        "written": study["budget"],
        "counts": said_counts(study["counts"], study.get("quantile", 1.0)),
        "axis": MEMORY_AXIS[study["counts"]],
        "images": validation_images(found.points[0].record),
        "recommended": found.recommendation.point.number,
        "full": _costs({**config, "method": "full"}, found.full, found.full["counted_bytes"]),
        "trials": [_trial(found, point, folder) for point in found.points],
        "front": [point.number for point in found.front],
        "families": [{"name": name, **_look(name)} for name in families],
        "kinds": [
            {"key": key, "colour": colour, "name": name} for key, (colour, name) in style.ALIVE.items()
        ],
        "measured": [
            {
                "trial": number,
                "kind": kind,
                "predicted": m[f"predicted_{kind}_bytes"],
                "measured": m[f"{kind}_bytes"],
            }
            for number, m in measurements(found).items()
            for kind in ("peak", "saved")
            if f"predicted_{kind}_bytes" in m
        ],
        "profile": profile_words({**config, "method": METHOD, "batch_size": BATCH}),
        "units": BYTE_UNITS,
    }


def measurements(found: Findings) -> dict[int, dict[str, Any]]:
    """What was measured, by trial number, where anything was."""
    return {number: record.measured for number, record in found.records.items() if record.measured}


def _trial(found: Findings, point: Point, folder: Path) -> dict[str, Any]:
    """A trained configuration."""
    record = point.record
    fresh = {n: r.score for n, r in found.records.items() if r.key == record.key and replica(r)}
    return {
        "number": point.number,
        "score": point.score,
        "drawn": point.drawn,
        "spread": point.spread,
        "seeds": point.seeds,
        "error": point.standard_error,
        "within": point.quality.error(point.score, point.standard_error),
        "said": point.said,
        "fresh": [[number, score and point.quality.bare(score)] for number, score in sorted(fresh.items())],
        **_look(record.method),
        **_costs(record.config, record.predicted, point.bytes),
        "commands": commands_for(folder, point.number, record),
        "trained": _trained(record),
    }


def _trained(record: Record) -> str:
    """How it was trained."""
    fidelity = record.fidelity
    size = fidelity.get("image_size") or record.config["image_size"]
    return (
        f"{plural(record.images_trained, record.judged.judges)} at {record.judged.size(size)} in "
        f"{format_number(record.seconds)} s, "
        f"recipe {fidelity.get('recipe')}, protocol {record.protocol.name}, seed {record.seed}"
        + (f"; by task: {record.by_task}" if record.by_task else "")
    )


def _look(method: str) -> dict[str, str]:
    colour, marker = style.look(method)
    return {"colour": colour, "outline": outline(marker)}


def _costs(config: dict[str, Any], predicted: dict[str, Any], counted: int) -> dict[str, Any]:
    """What a configuration holds and computes, as it is predicted."""
    tokens, trained = _blocks(json.dumps(config))
    return {
        "method": str(config["method"]),
        "batch": config["batch_size"],
        "lr": config.get("lr"),
        "bytes": counted,
        "totals": {key: value for key, value in predicted.items() if key.endswith(("_bytes", "_flops"))},
        "peak": predicted.get("peak"),
        "blocks": [
            {
                "name": name,
                "tokens": tokens.get(name),
                "trains": name in trained,
                "held": {kind: size for kind, size in held.items() if kind in style.KIND},
                "flops": held.get("train_flops", 0),
            }
            for name, held in predicted.get("by_block", {}).items()
        ],
    }


@lru_cache(maxsize=1024)
def _blocks(config: str) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Tokens into and out of each block, and the blocks that train, of a configuration in JSON; nothing of a model that
    is not known here."""
    try:
        read = Config.from_dict(json.loads(config))
        tokens, trained = tokens_by_block(read), trained_blocks(read)
    except UserError:
        return {}, set()
    return {str(block): counts for block, counts in tokens.items()}, set(map(str, trained))


@lru_cache
def outline(marker: str) -> str:
    """Matplotlib's marker, as the path of an SVG that is about one unit wide."""
    from matplotlib.markers import MarkerStyle

    shape = MarkerStyle(marker)
    path = shape.get_path().transformed(shape.get_transform())
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for vertices, code in path.iter_segments(simplify=False):
        numbers = (
            []
            if code == 79
            else [f"{(-value if place % 2 else value):.3f}" for place, value in enumerate(vertices)]
        )
        parts.append(letters[int(code)] + " ".join(numbers))
    return "".join(parts)
