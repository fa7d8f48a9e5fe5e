"""A comparison's table: a row a method, unscaled, and as text to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pandas as pd

from bsr_explorer.ledger import said_bound
from bsr_explorer.quality import Quality
from bsr_explorer.report.comparison.line import Line
from bsr_explorer.store.comparison_folder import Comparison
from bsr_explorer.units import format_gflops, format_less, format_mb, format_mib, format_number


def row(line: Line, lines: Sequence[Line], comparison: Comparison) -> dict[str, Any]:
    """All that is known of a method, unscaled: bytes, FLOPs, seconds, accuracies in [0, 1] (or perplexities).

    ``…_full_over_this`` are how many times less than full fine-tuning; ``…_over_full`` are parts of it.
    What full fine-tuning has not been trained or timed for is None.
    """
    entry, full = line.entry, comparison.full
    reference = next((other for other in lines if other.entry.key == full.key), None)
    peak, saved = line.measured("peak"), line.measured("saved")
    best, name = reference.value if reference else None, comparison.quality.name
    bounds = {*entry.at_least, *full.at_least}

    def ratio(figure: str, inverse: bool = False) -> float | None:
        """Full fine-tuning's figure over this one's; none of bounds."""
        pair = getattr(full, figure), getattr(entry, figure)
        return None if figure in bounds else _ratio(*(reversed(pair) if inverse else pair))

    return {
        "method": entry.method,
        "protocol": comparison.protocol.name,
        "status": line.status,
        "runs": len(line.scores),
        name: line.value,
        f"{name}_std": line.deviation,
        f"{name}_minus_full": _difference(line.value, best),
        f"{name}_over_full": _ratio(line.value, best),
        "counted_bytes": entry.counted_bytes,
        "counted_full_over_this": ratio("counted_bytes"),
        "peak_bytes": entry.peak_bytes,
        "peak_full_over_this": ratio("peak_bytes"),
        "saved_bytes": entry.saved_bytes,
        "saved_full_over_this": ratio("saved_bytes"),
        "published_bytes": entry.published_bytes,
        "published_full_over_this": _ratio(full.published_bytes, entry.published_bytes),
        "train_flops": entry.train_flops,
        "train_flops_over_full": ratio("train_flops", inverse=True),
        "step_seconds": line.step_seconds,
        "step_seconds_over_full": _in_rounds(line, reference),
        "largest_batch": entry.largest_batch,
        "largest_batch_over_full": None
        if "counted_bytes" in bounds
        else _ratio(entry.largest_batch, full.largest_batch),
        "trained_peak_bytes_predicted": peak[0] if peak else None,
        "trained_peak_bytes_measured": peak[1] if peak else None,
        "trained_saved_bytes_predicted": saved[0] if saved else None,
        "trained_saved_bytes_measured": saved[1] if saved else None,
        **({"at_least": ", ".join(entry.at_least)} if entry.at_least else {}),
        **{f"{OF_TASK}{task}": value for task, value in line.by_task.items()},
    }


OF_TASK = "accuracy of "
"""What the keys of a row begin with that are of one of several tasks."""


def by_task(each: dict[str, Any]) -> dict[str, float]:
    """The accuracy of each task, by its name, in a row; nothing, if there is one task."""
    return {key.removeprefix(OF_TASK): value for key, value in each.items() if key.startswith(OF_TASK)}


def mark(each: dict[str, Any], figure: str) -> str:
    """What stands before a figure of a row that is a bound."""
    return said_bound(figure, each.get("at_least", "").split(", "))


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def _difference(value: float | None, to: float | None) -> float | None:
    return None if value is None or to is None else value - to


def _in_rounds(line: Line, reference: Line | None) -> float | None:
    """The median of the rounds' ratios, which a machine's drift leaves alone."""
    if reference is None or not (line.seconds and reference.seconds):
        return None
    return median(mine / full for mine, full in zip(line.seconds, reference.seconds, strict=True))


def readable(rows: Sequence[dict[str, Any]], comparison: Comparison) -> pd.DataFrame:
    """The table scaled for reading; columns of which nothing is known are left out."""
    quality = comparison.quality
    kinds = dict.fromkeys([comparison.counts, "peak", "saved"])
    trained = f"at {quality.size(comparison.trained_at)}"
    ruled = comparison.counts != "published" and any(each["published_bytes"] for each in rows)
    made = []
    for each in rows:
        cells = {
            "method": each["method"],
            comparison.protocol.column(quality.column): quality_text(each, quality),
        }
        cells["to full" + (f" ({quality.points})" if quality.points else "")] = to_full_text(each, quality)
        cells |= {f"{task} (%)": f"{100 * value:.1f}" for task, value in by_task(each).items()}
        for kind in kinds:
            size, ratio = ("counted",) * 2 if kind == comparison.counts else (kind, kind)
            least = mark(each, f"{size}_bytes")
            cells[f"{kind} (MB)"] = f"{least}{format_mb(each[f'{size}_bytes'])}"
            cells[f"{kind} (MiB)"] = f"{least}{format_mib(each[f'{size}_bytes'])}"
            cells[f"{kind}, to full"] = _less(each[f"{ratio}_full_over_this"])
        if ruled:
            size = each["published_bytes"]
            cells["published (MB)"] = "—" if size is None else format_mb(size)
            cells["published (MiB)"] = "—" if size is None else format_mib(size)
            cells["published, to full"] = _less(each["published_full_over_this"]) or "—"
        cells["train GFLOPs a step"] = mark(each, "train_flops") + format_gflops(each["train_flops"])
        cells["FLOPs, to full"] = _text(each["train_flops_over_full"], 2, "x")
        cells["step (s)"] = _text(each["step_seconds"], 3)
        cells["time, to full"] = _text(each["step_seconds_over_full"], 2, "x")
        cells["largest batch"] = mark(each, "largest_batch") + _text(each["largest_batch"])
        cells["batch, to full"] = _text(each["largest_batch_over_full"], 2, "x")
        for kind in ("peak", "saved"):
            cells[f"{kind} {trained} (MB)"] = measured_text(each, kind)
        made.append(cells)
    frame = pd.DataFrame(made).fillna("")  # what did not train has no tasks
    return frame.loc[:, (frame != "").any()]


def best(values: Sequence[float | None], pick: Callable[[list[float]], float] = min) -> list[bool]:
    """Which of the values is the best of those that are known."""
    known = [value for value in values if value is not None]
    return [value is not None and value == pick(known) for value in values]


def quality_text(each: dict[str, Any], quality: Quality) -> str:
    """``85.0 ± 0.2`` (percent, or a perplexity), or why there is none."""
    value = each[quality.name]
    if value is None:
        return str(each["status"])
    return quality.bare(quality.score(value), each[f"{quality.name}_std"])


def measured_text(each: dict[str, Any], kind: str) -> str:
    """``240.1 → 240.2``, megabytes predicted and measured at the size trained, or nothing."""
    sizes = [each[f"trained_{kind}_bytes_{how}"] for how in ("predicted", "measured")]
    return "" if None in sizes else " → ".join(format_mb(size) for size in sizes)


def to_full_text(each: dict[str, Any], quality: Quality) -> str:
    """``+1.5``, percentage points (or of perplexity) to full fine-tuning, or nothing."""
    difference = each[f"{quality.name}_minus_full"]
    return "" if difference is None else quality.difference(difference)


def _less(ratio: float | None) -> str:
    return "" if ratio is None else format_less(ratio)


def _text(value: float | None, decimals: int = 0, unit: str = "") -> str:
    return "" if value is None else format_number(value, decimals) + unit
