"""A comparison's table, page and figure, from its folder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pandas as pd

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report import style
from bsr_explorer.report.figures import accountings, bars
from bsr_explorer.report.figures import comparison as figure
from bsr_explorer.report.figures.bars import NOT_RUN
from bsr_explorer.report.tables import latex, markdown
from bsr_explorer.store.comparison_folder import (
    STEPS,
    Comparison,
    Entry,
    StepTimes,
    read_comparison,
    read_runs,
    read_step_times,
)
from bsr_explorer.store.records import Record, write_text
from bsr_explorer.store.study import COUNTS
from bsr_explorer.units import format_bytes, format_gflops, format_mb, format_mib, format_number, plural, some


@dataclass(frozen=True)
class Line:
    """A method: what is predicted of it, and what its runs and its steps came to.

    Attributes:
        runs: records, by seed.
        seconds: of a step, a round each.
        untimed: why its steps could not be timed, or nothing.
    """

    entry: Entry
    runs: list[Record]
    seconds: list[float]
    untimed: str = ""

    @cached_property
    def accuracies(self) -> list[float]:
        """Of the runs that finished, in [0, 1]."""
        return [run.accuracy for run in self.runs if run.status == "finished" and run.accuracy is not None]

    @property
    def accuracy(self) -> float | None:
        """The mean over the seeds."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds, of two at least."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def status(self) -> str:
        """``finished`` if any run is, else what became of them."""
        if not self.entry.fits:
            return "does not fit"
        if self.accuracies:
            return "finished"
        return self.runs[-1].status if self.runs else NOT_RUN

    @property
    def step_seconds(self) -> float | None:
        """Median over the rounds."""
        return median(self.seconds) if self.seconds else None

    def measured(self, kind: str) -> tuple[int, int] | None:
        """Bytes predicted and measured at the size trained, of the run that was furthest from its prediction.

        Args:
            kind: ``peak`` or ``saved``.
        """
        found = [
            (run.measured[f"predicted_{kind}_bytes"], run.measured[f"{kind}_bytes"])
            for run in self.runs
            if run.measured and f"predicted_{kind}_bytes" in run.measured
        ]
        return max(found, key=lambda pair: abs(pair[1] - pair[0]), default=None)


@dataclass(frozen=True)
class Report:
    """What a comparison came to, and the files that say so."""

    comparison: Comparison
    lines: list[Line]
    rows: list[dict[str, Any]]
    notes: list[str]
    files: list[Path]


def report(folder: Path, venue: str | None = None, to: Path | None = None) -> Report:
    """Write a comparison's tables and figures, from what is in its folder.

    Args:
        folder: of the comparison.
        venue: key of ``style.VENUES`` whose pages the figures are made for; None: figures for a screen.
        to: the folder to write into; None: the comparison's own.

    Raises:
        UserError: no comparison there, files in it that cannot be read or written, or an unknown venue.
    """
    made_for = style.Page() if venue is None else style.page_of(venue)
    comparison = read_comparison(folder)
    if comparison is None:
        raise UserError(f"STUDY: {folder} is not the folder of a comparison")
    lines = lines_of(comparison, read_runs(comparison, folder), read_step_times(folder))
    rows, notes = [row(line, lines, comparison) for line in lines], notes_of(lines)
    to = to or folder
    page, table, tex = (to / f"comparison.{kind}" for kind in ("md", "csv", "tex"))
    try:
        write_text(table, pd.DataFrame(rows).convert_dtypes(convert_floating=False).to_csv(index=False))
        write_text(tex, _latex(comparison, lines, rows))
        with style.made_for(made_for):
            drawn = [path for draw in _figures(lines) for path in draw(comparison, lines, to / "figures")]
        write_text(page, _page(comparison, lines, rows, notes, drawn))
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, error.filename or to)}") from None
    return Report(comparison, lines, rows, notes, [page, table, tex, *drawn])


def _figures(lines: Sequence[Line]) -> list[Callable[[Comparison, Sequence[Line], Path], list[Path]]]:
    """The figures that there is something for."""
    known = [figure.draw] if any(line.accuracy is not None for line in lines) else []
    ruled = [accountings.draw] if any(line.entry.published_bytes is not None for line in lines) else []
    return [*known, bars.draw, *ruled]


def predicted(comparison: Comparison) -> Report:
    """What is known of a comparison before anything runs; writes nothing."""
    lines = lines_of(comparison, {}, StepTimes())
    return Report(comparison, lines, [row(line, lines, comparison) for line in lines], [], [])


def lines_of(comparison: Comparison, records: dict[int, Record], times: StepTimes) -> list[Line]:
    """A line a method, in the comparison's order; runs of other methods or further seeds are left out."""
    runs = sorted(records.values(), key=lambda record: record.seed)
    return [
        Line(
            entry,
            [run for run in runs if run.key == entry.key and run.seed < comparison.seeds and entry.fits],
            times.seconds.get(entry.key, []) if entry.fits else [],
            times.failed.get(entry.key, "") if entry.fits else "",
        )
        for entry in comparison.entries
    ]


def row(line: Line, lines: Sequence[Line], comparison: Comparison) -> dict[str, Any]:
    """All that is known of a method, unscaled: bytes, FLOPs, seconds, accuracies in [0, 1].

    ``…_full_over_this`` are how many times less than full fine-tuning; ``…_over_full`` are parts of it.
    What full fine-tuning has not been trained or timed for is None.
    """
    entry, full = line.entry, comparison.full
    reference = next((other for other in lines if other.entry.key == full.key), None)
    peak, saved = line.measured("peak"), line.measured("saved")
    best = reference.accuracy if reference else None
    return {
        "method": entry.method,
        "protocol": comparison.protocol.name,
        "status": line.status,
        "runs": len(line.accuracies),
        "accuracy": line.accuracy,
        "accuracy_std": line.deviation,
        "accuracy_minus_full": _difference(line.accuracy, best),
        "accuracy_over_full": _ratio(line.accuracy, best),
        "counted_bytes": entry.counted_bytes,
        "counted_full_over_this": _ratio(full.counted_bytes, entry.counted_bytes),
        "peak_bytes": entry.peak_bytes,
        "peak_full_over_this": _ratio(full.peak_bytes, entry.peak_bytes),
        "saved_bytes": entry.saved_bytes,
        "saved_full_over_this": _ratio(full.saved_bytes, entry.saved_bytes),
        "published_bytes": entry.published_bytes,
        "published_full_over_this": _ratio(full.published_bytes, entry.published_bytes),
        "train_flops": entry.train_flops,
        "train_flops_over_full": _ratio(entry.train_flops, full.train_flops),
        "step_seconds": line.step_seconds,
        "step_seconds_over_full": _in_rounds(line, reference),
        "largest_batch": entry.largest_batch,
        "largest_batch_over_full": _ratio(entry.largest_batch, full.largest_batch),
        "trained_peak_bytes_predicted": peak[0] if peak else None,
        "trained_peak_bytes_measured": peak[1] if peak else None,
        "trained_saved_bytes_predicted": saved[0] if saved else None,
        "trained_saved_bytes_measured": saved[1] if saved else None,
    }


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def _difference(value: float | None, to: float | None) -> float | None:
    return None if value is None or to is None else value - to


def _in_rounds(line: Line, reference: Line | None) -> float | None:
    """The median of the rounds' ratios, which a machine's drift leaves alone."""
    if reference is None or not (line.seconds and reference.seconds):
        return None
    return median(mine / full for mine, full in zip(line.seconds, reference.seconds, strict=True))


def notes_of(lines: Sequence[Line]) -> list[str]:
    """What went wrong, a line each."""
    notes = []
    for line in lines:
        label = line.entry.label
        notes += [
            f"{label}, seed {run.seed}: {run.status}, {run.reason}"
            for run in line.runs
            if run.status != "finished"
        ]
        notes += [
            f"{label}, seed {run.seed}: {run.measured['fault']}"
            for run in line.runs
            if run.measured and "fault" in run.measured
        ]
        if line.untimed:
            notes.append(f"{label}: steps were not timed, {line.untimed}")
    return notes


def described(comparison: Comparison) -> list[str]:
    """What is compared, how it is trained, and what the budget is, a sentence each."""
    config, fidelity = comparison.config, comparison.fidelity
    trained, own = comparison.trained_at, config["image_size"]
    proxy = f", a proxy: memory, FLOPs and step times are those of {own} px" if trained != own else ""
    said = [
        f"{config['model']}, {own} px, batch {config['batch_size']}, {config['optimizer']}, {config['precision']}, "
        f"{config['attention']} attention, {config['device']}; weights: {comparison.weights}.",
        f"{'To be trained' if fidelity['train_size'] is None else 'Trained'} on "
        f"{some(fidelity['train_size'], 'image')} of {comparison.data} at {trained} px{proxy}; "
        f"{some(fidelity['epochs'], 'epoch', 'the recipe’s')}, recipe {fidelity['recipe']}, "
        f"{some(fidelity['val_size'], f'{comparison.protocol.judged_on} image')}, {plural(comparison.seeds, 'seed')}.",
        f"Protocol {comparison.protocol.name}: {comparison.protocol.summary}.",
    ]
    if comparison.budget is not None and comparison.budget_bytes is not None:
        said.append(
            f"Budget {comparison.budget} = {format_bytes(comparison.budget_bytes)}, counting "
            f"{COUNTS[comparison.counts]}; what does not fit is not trained."
        )
    return said


def _page(
    comparison: Comparison,
    lines: Sequence[Line],
    rows: Sequence[dict[str, Any]],
    notes: Sequence[str],
    drawn: Sequence[Path],
) -> str:
    full = comparison.full
    rounds = max((len(line.seconds) for line in lines), default=0)
    ran = any(line.runs for line in lines)
    text = [
        f"# {comparison.config['model']} on {Path(comparison.data).name}",
        "",
        *(f"{sentence}\n" for sentence in described(comparison)),
        f"{_how_trained(comparison) if ran else _NOTHING_TRAINED} Full fine-tuning: "
        f"{format_bytes(full.counted_bytes)}, {format_gflops(full.train_flops, 0)} GFLOPs a step. "
        + (f"A step's time is the median of {plural(rounds, 'round')} (`{STEPS}`). " if rounds else "")
        + (_ACCOUNTINGS if any(line.entry.published_bytes is not None for line in lines) else ""),
        "",
        markdown(_readable(rows, comparison), as_text=True),
        "",
        *(f"![{what}](figures/{path.name})\n" for path, what in _shown(drawn)),
    ]
    if notes:
        text += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(text)


def _how_trained(comparison: Comparison) -> str:
    return (
        f"Accuracy is {comparison.protocol.accuracy_is}; mean ± standard deviation over the seeds. Memory and FLOPs "
        "are predicted for one step; beside them stands what the runs held at the size they were trained at, predicted "
        "→ measured."
    )


_NOTHING_TRAINED = (
    "Nothing was trained here: memory and FLOPs of one step follow from the configuration alone, and accuracy is not "
    "known."
)
_ACCOUNTINGS = (
    "Peak: all that torch's tensors hold at the fullest moment of a step. Saved: activations held for backward. "
    "Published: the BSR paper's own accounting (activations and parameters at 32 bits, frozen ones at 8; no gradients, "
    "no optimiser state), for the methods that it has a rule for."
)
_SHOWN = {
    "comparison": "accuracy against memory",
    "bars": "memory, compute, time and accuracy of each method",
    "accountings": "memory by the published accounting and in truth",
}
"""What a comparison's figures show, by name."""


def _shown(drawn: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, _SHOWN[path.stem]) for path in drawn if path.suffix == ".png"]


def _readable(rows: Sequence[dict[str, Any]], comparison: Comparison) -> pd.DataFrame:
    """The table scaled for reading; columns of which nothing is known are left out."""
    kinds = dict.fromkeys([comparison.counts, "peak", "saved"])
    trained = f"at {comparison.trained_at} px"
    ruled = comparison.counts != "published" and any(each["published_bytes"] for each in rows)
    made = []
    for each in rows:
        cells = {"method": each["method"], comparison.protocol.column(): accuracy_text(each)}
        cells["to full (points)"] = points_text(each["accuracy_minus_full"])
        for kind in kinds:
            size, ratio = ("counted",) * 2 if kind == comparison.counts else (kind, kind)
            cells[f"{kind} (MB)"] = f"{format_mb(each[f'{size}_bytes'])}"
            cells[f"{kind} (MiB)"] = f"{format_mib(each[f'{size}_bytes'])}"
            cells[f"{kind}, to full"] = _text(each[f"{ratio}_full_over_this"], 2, "x less")
        if ruled:
            size = each["published_bytes"]
            cells["published (MB)"] = "—" if size is None else format_mb(size)
            cells["published (MiB)"] = "—" if size is None else format_mib(size)
            cells["published, to full"] = _text(each["published_full_over_this"], 2, "x less") or "—"
        cells["train GFLOPs a step"] = format_gflops(each["train_flops"])
        cells["FLOPs, to full"] = _text(each["train_flops_over_full"], 2, "x")
        cells["step (s)"] = _text(each["step_seconds"], 3)
        cells["time, to full"] = _text(each["step_seconds_over_full"], 2, "x")
        cells["largest batch"] = _text(each["largest_batch"])
        cells["batch, to full"] = _text(each["largest_batch_over_full"], 2, "x")
        for kind in ("peak", "saved"):
            cells[f"{kind} {trained} (MB)"] = measured_text(each, kind)
        made.append(cells)
    frame = pd.DataFrame(made)
    return frame.loc[:, (frame != "").any()]


def _latex(comparison: Comparison, lines: Sequence[Line], rows: Sequence[dict[str, Any]]) -> str:
    """The table for a paper: short names, megabytes only, the best of each column in bold; no ratios of what the
    columns hold, and nothing of the smaller size that was trained at."""
    frame = _readable(rows, comparison)
    beyond = ("MiB", f"at {comparison.trained_at} px")
    less = [f"{kind}, to full" for kind in ("peak", "saved", "published", "batch")]
    frame = frame[
        [name for name in frame if name not in less and not any(word in str(name) for word in beyond)]
    ]
    frame["method"] = [line.entry.label for line in lines]
    bold = {
        comparison.protocol.column(): best([row["accuracy"] for row in rows], max),
        f"{comparison.counts} (MB)": best([row["counted_bytes"] for row in rows]),
        "train GFLOPs a step": best([row["train_flops"] for row in rows]),
        "step (s)": best([row["step_seconds"] for row in rows]),
    }
    for kind in ("peak", "saved", "published"):
        bold.setdefault(f"{kind} (MB)", best([row[f"{kind}_bytes"] for row in rows]))
    return latex(frame, " ".join(described(comparison)), bold)


def best(values: Sequence[float | None], pick: Callable[[list[float]], float] = min) -> list[bool]:
    """Which of the values is the best of those that are known."""
    known = [value for value in values if value is not None]
    return [value is not None and value == pick(known) for value in values]


def accuracy_text(each: dict[str, Any]) -> str:
    """``85.0 ± 0.2`` (percent), or why there is none."""
    if each["accuracy"] is None:
        return str(each["status"])
    spread = "" if each["accuracy_std"] is None else f" ± {100 * each['accuracy_std']:.1f}"
    return f"{100 * each['accuracy']:.1f}{spread}"


def measured_text(each: dict[str, Any], kind: str) -> str:
    """``240.1 → 240.2``, megabytes predicted and measured at the size trained, or nothing."""
    sizes = [each[f"trained_{kind}_bytes_{how}"] for how in ("predicted", "measured")]
    return "" if None in sizes else " → ".join(format_mb(size) for size in sizes)


def points_text(difference: float | None) -> str:
    """``+1.5``, percentage points between two accuracies in [0, 1], or nothing."""
    return "" if difference is None else f"{100 * difference:+.1f}"


def _text(value: float | None, decimals: int = 0, unit: str = "") -> str:
    return "" if value is None else format_number(value, decimals) + unit
