"""Everything that is written of a study: tables, figures and a page of Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsr_explorer.config import Fidelity
from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report import style
from bsr_explorer.report.figures import FIGURES
from bsr_explorer.report.study import tables
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.report.study.strip import Strip
from bsr_explorer.store.records import write_text
from bsr_explorer.store.study import said_counts
from bsr_explorer.units import format_bytes, format_number, plural


@dataclass(frozen=True)
class Report:
    """What a study came to, and the files that say so; and what is said of tokens, if its recommended configuration
    drops some."""

    found: Findings
    files: list[Path]
    strip: Strip | None = None


def report(
    folder: Path,
    venue: str | None = None,
    to: Path | None = None,
    strip: Callable[[Findings, Path], Strip | None] = lambda found, figures: None,
) -> Report:
    """Write a study's report: from its records, and from the cost model what follows of them.

    Args:
        folder: of the study.
        venue: key of ``style.VENUES`` whose pages the figures are made for; None: figures for a screen.
        to: the folder to write into; None: the study's own.
        strip: makes what is said of tokens, given the folder of figures.

    Raises:
        UserError: no study there, no finished trial in it, or an unknown venue.
    """
    page = style.Page() if venue is None else style.page_of(venue)
    found = Findings.read(folder)
    try:
        with style.made_for(page):
            return _write(to or folder, found, strip)
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, error.filename or to or folder)}") from None


def _write(folder: Path, found: Findings, strip: Callable[[Findings, Path], Strip | None]) -> Report:
    made = [*tables.write(found, folder)]
    name = found.quality.name
    drawn = {
        title.replace("accuracy", name): draw(found, folder / "figures") for title, draw in FIGURES.items()
    }
    page, tokens = folder / "report.md", strip(found, folder / "figures")
    write_text(page, _page(found, {title: paths[0] for title, paths in drawn.items() if paths}, tokens))
    figures = [path for paths in drawn.values() for path in paths]
    figures += [tokens.file] if tokens and tokens.file else []
    return Report(found, [page, *made, *figures], tokens)


def _page(found: Findings, drawn: dict[str, Path], tokens: Strip | None) -> str:
    """The page in Markdown.

    Args:
        drawn: the figures, by what they show.
    """
    record, study, chosen = found.points[0].record, found.study, found.recommendation
    records, config = found.records, record.config
    stopped = {number: r for number, r in records.items() if r.status == "stopped"}
    failed = {number: r for number, r in records.items() if r.failed}
    calibrated = calibration_said([r.measured for r in records.values() if r.measured])
    lines = [
        f"# {study['name']}",
        "",
        f"`{config['model']}`, {found.quality.size(config['image_size'])}, batch {config['batch_size']}, "
        f"{config['optimizer']}, "
        f"{config['precision']}, {config['attention']} attention; data `{record.data}` ({record.split}); "
        f"weights: {record.weights}.",
        "",
        f"Budget {study['budget']} = {format_bytes(found.budget)}, counting "
        f"{said_counts(study['counts'], study.get('quantile', 1.0))}. "
        f"Full fine-tuning would take {format_bytes(found.full['counted_bytes'])}.",
        "",
        f"Trained at {found.quality.size(record.fidelity['image_size'])} for "
        f"{plural(record.fidelity['epochs'], 'epoch')} "
        f"(recipe `{record.fidelity['recipe']}`, protocol {record.protocol.name}), {_seeds(found)}; "
        f"{found.quality.name} is {record.accuracy_is}. Memory and FLOPs are predicted at "
        f"{found.quality.size(config['image_size'])}. "
        f"{calibrated}",
        "",
        "## Front",
        "",
        tables.front_markdown(found.front),
        "",
        f"Hypervolume {format_number(found.hypervolume, 4)}: the area under this front from no memory to the budget, "
        + (
            "where 1 would be an accuracy of 100% for no memory."
            if found.quality.higher
            else "of one over the perplexity: 1 would be a perplexity of 1 for no memory."
        ),
        "",
        f"**Recommended: `{chosen.point.method}`** (trial {chosen.point.number}): {chosen.reason}.",
        "",
        "## Figures",
        "",
        *(f"![{title}](figures/{path.name})\n" for title, path in drawn.items()),
        *([f"What follows from the model alone is not drawn: {found.unknown}\n"] if found.unknown else []),
        *(tokens.markdown() if tokens else []),
    ]
    faults = {
        number: r.measured["fault"] for number, r in records.items() if r.measured and "fault" in r.measured
    }
    if faults:
        lines += ["## Faults of the cost model", ""]
        lines += [
            f"- trial {number}, `{records[number].method}`: {fault}" for number, fault in faults.items()
        ]
        lines.append("")
    proxies = {number: r for number, r in records.items() if r.status == "proxy"}
    if proxies:
        lines += ["## Trained at a proxy", ""]
        lines += [
            "Cheaper trainings, which told the search where to look. Nothing above is of these:",
            "",
        ]
        lines += [
            f"- trial {number}, `{r.method}`: {r.judged.text(r.score or 0.0)} with "
            f"{Fidelity(**r.fidelity).said(r.judged)}"
            for number, r in proxies.items()
        ]
        lines.append("")
    if stopped:
        lines += ["## Stopped early at a rung", "", "Others with no more memory were ahead by then:", ""]
        lines += [f"- trial {number}, `{r.method}`: {r.reason}" for number, r in stopped.items()]
        lines.append("")
    if failed:
        lines += ["## Not finished", ""]
        lines += [f"- trial {number}, `{r.method}`: {r.status}, {r.reason}" for number, r in failed.items()]
        lines.append("")
    return "\n".join(lines)


def _seeds(found: Findings) -> str:
    """How many runs an accuracy, or perplexity, is the mean of."""
    if found.seeds == 1:
        return "one seed a configuration"
    return (
        "one seed a configuration, or the mean ± standard deviation over as many fresh seeds as the table says "
        "(without the run by which the search chose it: that one was picked for being "
        f"{'high' if found.quality.higher else 'low'})"
    )


def calibration_said(measured: list[dict[str, Any]]) -> str:
    """How far the trials, as they were trained, were from their predictions."""
    if not measured:
        return ""
    exact = sum(m["saved_bytes"] == m["predicted_saved_bytes"] for m in measured)
    said = (
        "Saved bytes, predicted and measured at the trained size, are equal in "
        f"{exact} of {plural(len(measured), 'trial')}"
    )
    ratios = [m["peak_bytes"] / m["predicted_peak_bytes"] for m in measured if "peak_bytes" in m]
    if not ratios:
        return f"{said}."
    low, high = (f"{100 * (ratio - 1):+.3f}%" for ratio in (min(ratios), max(ratios)))
    return f"{said}; the peak of a step was {low} to {high} off its prediction."
