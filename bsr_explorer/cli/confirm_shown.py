"""What a confirmation shows: its plan, the two orders side by side, its files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bsr_explorer.cli.console import out, table
from bsr_explorer.config import Fidelity
from bsr_explorer.units import format_mb, format_mib, plural

if TYPE_CHECKING:
    from bsr_explorer.confirm.orders import Orders, Reached
    from bsr_explorer.confirm.plan import Run
    from bsr_explorer.report.front import Point
    from bsr_explorer.report.study.findings import Findings


def planned(
    found: Findings, points: Sequence[Point], fidelity: Fidelity, seeds: int, runs: Sequence[Run]
) -> str:
    """What will be trained, in words."""
    ahead, first = len(found.front), found.points[0].record
    then = first.fidelity
    beside = len(points) - ahead
    quality, many = found.quality, f"{found.quality.judges}s"
    return (
        f"{found.study['name']}: {plural(ahead, 'configuration')} of the front"
        + (f" and the {beside} nearest to it" if beside else "")
        + f", {plural(seeds, 'seed')} each\n"
        f"said at {quality.size(then['image_size'])} by {then['train_size']} {many}; now at "
        f"{quality.size(fidelity.image_size or 0)} by {fidelity.train_size} {many}, {fidelity.val_size} "
        f"validation {many}, recipe {fidelity.recipe}\n"
        f"{plural(len(runs), 'run')} to train"
    )


def show(orders: Orders) -> None:
    cells = [
        [
            str(each.point.number) + (" *" if each.point.number == orders.recommended else ""),
            each.point.method,
            format_mb(each.point.bytes),
            format_mib(each.point.bytes),
            f"{each.point.said}\n{rank}",
            f"{_reached(each)}\n{now}",
        ]
        for each, (rank, now) in zip(orders.reached, orders.ranks(), strict=True)
    ]
    column = partial(_head, orders)
    columns = ["trial", "method", "MB", "MiB", f"{column('said')}\nrank", f"{column('reached')}\nrank"]
    out.print(table(columns, cells, left=(0, 1), fold=(1,)))
    out.print(f"\n{escape(_verdict(orders))}", soft_wrap=True)


def _reached(each: Reached) -> str:
    seeds = f" ({len(each.scores)} seeds)" if len(each.scores) > 1 else ""
    if not each.known:
        return f"{each.quality.bare(each.score)}{seeds}"
    error = each.quality.slip(each.score, each.standard_error)
    return f"{each.quality.bare(each.score)} ± {error:.{each.quality.decimals}f}{seeds}"


def _head(orders: Orders, what: str) -> str:
    unit = orders.reached[0].quality.unit
    return f"{what} {unit}" if unit else what


def _verdict(orders: Orders) -> str:
    """How far the orders agree, and what the recommendation was worth."""
    said = f"{plural(len(orders.reached), 'configuration')}: "
    if orders.spearman is None or orders.kendall is None:
        said += "too few, or too much alike, for a rank correlation."
    else:
        said += f"Spearman {orders.spearman:.2f}, Kendall {orders.kendall:.2f} between said and reached."
    taken, best = orders.taken, orders.best
    if taken is None or best is None:
        return said
    quality, unit = best.quality, best.quality.unit
    lost = quality.difference(abs(quality.value(best.score) - quality.value(taken.score))).lstrip("+")
    lost += f" {quality.points} more" if quality.points else f" of {quality.name} less"
    return said + (
        f"\n* recommended: {_reached(taken)}{unit}, the best of what takes no more memory."
        if best is taken
        else f"\n* recommended: {_reached(taken)}{unit}; the best of what takes no more memory is trial "
        f"{best.point.number}, {_reached(best)}{unit}: {lost}."
    )


def _rows(orders: Orders) -> list[dict[str, Any]]:
    return [
        {
            "trial": each.point.number,
            "method": each.point.method,
            "counted_bytes": each.point.bytes,
            f"{each.quality.name}_said": round(each.point.value, 6),
            "rank_said": said,
            f"{each.quality.name}_reached": round(each.quality.value(each.score), 6),
            "standard_error": round(each.standard_error, 6) if each.known else None,
            "seeds": len(each.scores),
            "rank_reached": reached,
            "recommended": each.point.number == orders.recommended,
        }
        for each, (said, reached) in zip(orders.reached, orders.ranks(), strict=True)
    ]


def answer(orders: Orders, fidelity: Fidelity, files: Sequence[Path]) -> dict[str, Any]:
    return {
        "image_size": fidelity.image_size,
        "train_size": fidelity.train_size,
        "val_size": fidelity.val_size,
        "configurations": _rows(orders),
        "spearman": orders.spearman,
        "kendall": orders.kendall,
        "files": [str(path) for path in files],
    }


def write(orders: Orders, folder: Path) -> list[Path]:
    """The table as CSV and Markdown."""
    from bsr_explorer.store.records import write_text

    rows, text = _rows(orders), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    lines = [
        f"| trial | method | MB | {_head(orders, 'said')} | rank | {_head(orders, 'reached')} | rank |",
        "| ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {each.point.number}{' *' if each.point.number == orders.recommended else ''} | `{each.point.method}` | "
            f"{format_mb(each.point.bytes)} | {each.point.said} | {said} | {_reached(each)} | {now} |"
            for each, (said, now) in zip(orders.reached, orders.ranks(), strict=True)
        ),
    ]
    page = "\n".join(["# Said and reached", "", *lines, "", _verdict(orders), ""])
    files = [folder / "confirmed.csv", folder / "confirmed.md"]
    for path, content in zip(files, (text.getvalue(), page), strict=True):
        write_text(path, content)
    return files
