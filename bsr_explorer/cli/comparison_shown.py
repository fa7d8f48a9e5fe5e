"""A comparison as a table on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bsr_explorer.cli.console import out, table
from bsr_explorer.units import (
    format_bytes,
    format_gflops,
    format_less,
    format_mb,
    format_mib,
    format_number,
    plural,
)

if TYPE_CHECKING:
    from bsr_explorer.report.comparison.write import Report
    from bsr_explorer.store.comparison_folder import Comparison


@dataclass(frozen=True)
class Made:
    """What came of a comparison.

    Attributes:
        tasks_left: runs and timings to do, where it was only planned.
    """

    report: Report
    folder: Path
    tasks_left: int | None = None

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        made = self.report
        said = {**made.comparison.to_dict(), "methods": made.rows, "folder": str(self.folder)}
        if self.tasks_left is not None:
            return {**said, "tasks_left": self.tasks_left}
        return {**said, "notes": made.notes, "files": [str(path) for path in made.files]}


def show_comparison(made: Report) -> None:
    """Print the table, and what went wrong."""
    _show_table(made.comparison, made.rows)
    for note in made.notes:
        out.print(note, style="yellow", markup=False)


def _show_table(comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    """A method takes two lines: what it comes to, and below that its ratios to full fine-tuning."""
    from bsr_explorer.ledger import said_bound
    from bsr_explorer.report.comparison.said import described
    from bsr_explorer.report.comparison.table import mark, quality_text, to_full_text

    out.print(escape("\n".join(described(comparison))) + "\n")
    others = [kind for kind in ("peak", "saved") if kind != comparison.counts]
    budget, quality = comparison.budget is not None, comparison.quality
    published = comparison.counts != "published" and any(row["published_bytes"] for row in rows)
    columns = [
        "method",
        comparison.protocol.column(f"{quality.name} {quality.unit}".strip()),
        f"{comparison.counts} MB",
        "MiB",
        *(f"{kind} MB" for kind in others),
    ]
    columns += [
        *(["published MB"] if published else []),
        "GFLOPs a step",
        "step s",
        *(["largest batch"] if budget else []),
    ]
    trained = any(row["trained_saved_bytes_measured"] is not None for row in rows)
    columns += [f"MB at {quality.size(comparison.trained_at)},\npredicted → measured"] if trained else []
    cells = []
    for entry, row in zip(comparison.entries, rows, strict=True):
        to_full = to_full_text(row, quality)
        cells.append(
            [
                entry.label,
                f"{quality_text(row, quality)}\n{to_full and f'{to_full} {quality.points}'.rstrip()}",
                _memory(row, "counted"),
                mark(row, "counted_bytes") + format_mib(row["counted_bytes"]),
                *(_memory(row, kind) for kind in others),
                *([_memory(row, "published") if row["published_bytes"] else "—"] if published else []),
                _two(row, "train_flops", 1, 1e-9),
                _two(row, "step_seconds", 3),
                *([_two(row, "largest_batch")] if budget else []),
                *([_measured(row)] if trained else []),
            ]
        )
    out.print(table(columns, cells, left=(0,), fold=(0,)))
    _show_tasks(comparison, rows)
    full = comparison.full
    out.print(
        "\nbelow each: its ratio to full fine-tuning ("
        f"{said_bound('counted_bytes', full.at_least)}{format_bytes(full.counted_bytes)} counting "
        f"{comparison.counts}, {said_bound('train_flops', full.at_least)}"
        f"{format_gflops(full.train_flops, 0)} GFLOPs a step)"
    )


def _show_tasks(comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    """The accuracy of each of several tasks, whose mean stands in the table above."""
    from bsr_explorer.report.comparison.table import by_task

    tasks = list(dict.fromkeys(task for row in rows for task in by_task(row)))
    if tasks:
        cells = [
            [
                entry.label,
                *(f"{100 * by_task(row)[task]:.1f}" if task in by_task(row) else "" for task in tasks),
            ]
            for entry, row in zip(comparison.entries, rows, strict=True)
        ]
        out.print(table(["method, % by task", *tasks], cells, left=(0,), fold=(0,)))


def _measured(row: dict[str, Any]) -> str:
    from bsr_explorer.report.comparison.table import measured_text

    return "\n".join(f"{kind} {text}" for kind in ("peak", "saved") if (text := measured_text(row, kind)))


def _memory(row: dict[str, Any], kind: str) -> str:
    from bsr_explorer.report.comparison.table import mark

    ratio = row[f"{kind}_full_over_this"]
    less = "" if ratio is None else format_less(ratio)
    return f"{mark(row, f'{kind}_bytes')}{format_mb(row[f'{kind}_bytes'])}\n{less}"


def _two(row: dict[str, Any], key: str, decimals: int = 0, scale: float = 1) -> str:
    from bsr_explorer.report.comparison.table import mark

    value, ratio = row[key], row[f"{key}_over_full"]
    said = "" if value is None else format_number(value * scale, decimals)
    return f"{mark(row, key)}{said}\n{'' if ratio is None else f'{format_number(ratio, 2)}x'}"


def show_dry_run(made: Made) -> None:
    _show_table(made.report.comparison, made.report.rows)
    out.print(
        f"\n{plural(made.tasks_left or 0, 'task')} to do (runs and timings); folder {made.folder}\n"
        "Nothing was trained or written (--dry-run).",
        markup=False,
    )
