"""Everything that is written of a study: tables, figures and a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsr_explorer.errors import UserError
from bsr_explorer.report import figures, tables
from bsr_explorer.report.front import Choice, Point, front, hypervolume, points, read_trials, recommend
from bsr_explorer.store.records import Record, write_text
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes


@dataclass(frozen=True)
class Report:
    """What a study came to, and the files that say so."""

    records: dict[int, Record]
    front: list[Point]
    recommendation: Choice
    files: list[Path]

    @property
    def hypervolume(self) -> float:
        """Of the front, up to the budget."""
        return volume(self.front)


def report(folder: Path) -> Report:
    """Write a study's report into its folder, from its records alone.

    Raises:
        UserError: no study there, or no finished trial in it.
    """
    records = read_trials(folder)
    every = points(records)
    if not every:
        raise UserError(f"STUDY: {folder} has no finished trial yet; run its search first")
    ahead = front(every)
    try:
        return _write(folder, records, every, ahead, recommend(ahead))
    except OSError as error:
        raise UserError(f"STUDY: {error.filename or folder} cannot be written ({error.strerror})") from None


def volume(ahead: Sequence[Point]) -> float:
    """Hypervolume of a study's front up to its budget."""
    budget = ahead[0].record.study["budget_bytes"]
    return hypervolume([p.bytes for p in ahead], [p.accuracy for p in ahead], budget)


def _write(
    folder: Path, records: dict[int, Record], every: list[Point], ahead: list[Point], chosen: Choice
) -> Report:
    trials, table = folder / "trials.csv", folder / "front.csv"
    write_text(trials, tables.trials_frame(records).to_csv(index=False))
    write_text(table, tables.front_frame(ahead).to_csv(index=False))
    drawn = figures.accuracy_against_memory(every, ahead, folder / "figures")
    drawn += figures.memory_by_block(_shown(ahead, chosen.point), folder / "figures")
    drawn += figures.calibration(list(records.values()), folder / "figures")
    page = folder / "report.md"
    write_text(page, _page(records, every, ahead, chosen))
    return Report(records, ahead, chosen, [page, table, trials, *drawn])


def _shown(ahead: list[Point], chosen: Point) -> list[Point]:
    """The ends of the front, the recommended point, and what lies halfway between them in rank."""
    places = {0, len(ahead) // 3, 2 * len(ahead) // 3, ahead.index(chosen), len(ahead) - 1}
    return [ahead[place] for place in sorted(places)]


def _page(records: dict[int, Record], every: list[Point], ahead: list[Point], chosen: Choice) -> str:
    record = every[0].record
    study, config = record.study, record.config
    stopped = {number: r for number, r in records.items() if r.status == "stopped"}
    failed = {number: r for number, r in records.items() if r.status not in ("finished", "stopped")}
    calibrated = _calibrated([r.measured for r in records.values() if r.measured])
    lines = [
        f"# {study['name']}",
        "",
        f"`{config['model']}`, {config['image_size']} px, batch {config['batch_size']}, {config['optimizer']}, "
        f"{config['precision']}, {config['attention']} attention; data `{record.data}` ({record.split}); "
        f"weights: {record.weights}.",
        "",
        f"Budget {study['budget']} = {format_bytes(study['budget_bytes'])}, counting "
        f"{COUNTS[study['counts']]}. Full fine-tuning would take "
        f"{format_bytes(every[0].full['counted_bytes'])}.",
        "",
        f"Trained at {record.fidelity['image_size']} px for {record.fidelity['epochs']} epochs "
        f"(recipe `{record.fidelity['recipe']}`), {_seeds(every)}; accuracy is {record.accuracy_is}. "
        f"Memory and FLOPs are predicted at {config['image_size']} px. {calibrated}",
        "",
        "## Front",
        "",
        tables.front_markdown(ahead),
        "",
        f"Hypervolume {volume(ahead):.4f}: the area under this front from no memory to the budget, where 1 would be "
        "an accuracy of 100% for no memory.",
        "",
        f"**Recommended: `{chosen.point.method}`** (trial {chosen.point.number}): {chosen.reason}.",
        "",
        "![accuracy against memory](figures/front.png)",
        "",
        "![memory by block](figures/memory_by_block.png)",
        "",
    ]
    if any(r.measured for r in records.values()):
        lines += ["![predicted against measured](figures/calibration.png)", ""]
    faults = {
        number: r.measured["fault"] for number, r in records.items() if r.measured and "fault" in r.measured
    }
    if faults:
        lines += ["## Faults of the cost model", ""]
        lines += [
            f"- trial {number}, `{records[number].method}`: {fault}" for number, fault in faults.items()
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


def _seeds(every: Sequence[Point]) -> str:
    """How many runs an accuracy is the mean of."""
    if all(point.seeds == 1 for point in every):
        return "one seed a configuration"
    return (
        "one seed a configuration, or the mean ± standard deviation over as many fresh seeds as the table says "
        "(without the run by which the search chose it: that one was picked for being high)"
    )


def _calibrated(measured: list[dict[str, Any]]) -> str:
    """How far the trials, as they were trained, were from their predictions."""
    if not measured:
        return ""
    exact = sum(m["saved_bytes"] == m["predicted_saved_bytes"] for m in measured)
    said = f"Saved bytes, predicted and measured at the trained size, are equal in {exact} of {len(measured)} trials"
    ratios = [m["peak_bytes"] / m["predicted_peak_bytes"] for m in measured if "peak_bytes" in m]
    if not ratios:
        return f"{said}."
    low, high = (f"{100 * (ratio - 1):+.3f}%" for ratio in (min(ratios), max(ratios)))
    return f"{said}; the peak of a step was {low} to {high} off its prediction."
