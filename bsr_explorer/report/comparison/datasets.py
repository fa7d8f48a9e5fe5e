"""Comparisons of the same methods on several data sets, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.report.comparison.table import best, quality_text
from bsr_explorer.report.comparison.write import Report
from bsr_explorer.report.markup import latex, markdown
from bsr_explorer.store.records import write_text
from bsr_explorer.units import format_gflops, format_mb, format_number, plural


def write(compared: Sequence[Report], folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.tex`` into a folder; returns their paths.

    Memory and compute are the most that any of the data sets takes: they differ by the head alone.

    Args:
        compared: the same methods, on a data set each.

    Raises:
        UserError: files that cannot be written.
    """
    page, plain, tex = (folder / f"table.{kind}" for kind in ("md", "csv", "tex"))
    try:
        write_text(
            plain, pd.DataFrame(rows(compared)).convert_dtypes(convert_floating=False).to_csv(index=False)
        )
        write_text(page, _page(compared))
        write_text(tex, _latex(compared))
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, error.filename or folder)}") from None
    return [page, plain, tex]


def rows(compared: Sequence[Report]) -> list[dict[str, Any]]:
    """A row a method, unscaled: the largest of its costs, and its accuracy (or perplexity) on each data set."""
    made = []
    for each in zip(*(one.rows for one in compared), strict=True):
        row: dict[str, Any] = {"method": each[0]["method"], "protocol": each[0]["protocol"]}
        for key in ("published_bytes", "saved_bytes", "peak_bytes", "train_flops"):
            row[key] = None if each[0][key] is None else max(on[key] for on in each)
        for one, on in zip(compared, each, strict=True):
            name, quality = Path(one.comparison.data).name, one.comparison.quality.name
            row |= {f"{name}_{key}": on[key] for key in ("status", "runs", quality, f"{quality}_std")}
        made.append(row)
    return made


def _page(compared: Sequence[Report]) -> str:
    title = f"# {compared[0].comparison.config['model']} on {', '.join(_names(compared))}"
    return "\n".join([title, "", _said(compared), "", markdown(_readable(compared), as_text=True), ""])


def _latex(compared: Sequence[Report]) -> str:
    """The table for a paper: short names, the best of each column in bold."""
    frame, found = _readable(compared), rows(compared)
    frame["method"] = [line.entry.label for line in compared[0].lines]
    quality = compared[0].comparison.quality
    bold = {
        _column(compared[0], name): best([row[f"{name}_{quality.name}"] for row in found], quality.best)
        for name in _names(compared)
    }
    for kind in ("published", "saved", "peak"):
        bold[f"{kind} (MB)"] = best([row[f"{kind}_bytes"] for row in found])
    bold["train GFLOPs a step"] = best([row["train_flops"] for row in found])
    return latex(frame, f"{compared[0].comparison.config['model']}, {_said(compared)}", bold)


def _names(compared: Sequence[Report]) -> list[str]:
    return [Path(one.comparison.data).name for one in compared]


def _said(compared: Sequence[Report]) -> str:
    first = compared[0].comparison
    config, seeds = first.config, first.seeds
    percent = "in percent, " if first.quality.unit else ""
    return (
        f"{first.quality.size(config['image_size'])}, batch {config['batch_size']}, {config['optimizer']}, "
        f"{config['precision']}, "
        f"{config['attention']} attention, {config['device']}; recipe {first.fidelity['recipe']}. Protocol "
        f"{first.protocol.name}: {first.protocol.summarised(first.quality)}. {first.quality.name.capitalize()} is "
        f"{first.protocol.says(first.quality)}; {percent}"
        f"mean ± standard deviation over {plural(seeds, 'seed')}. Memory of one step, in MB, is the "
        "most that any of the data sets takes (they differ by the head alone); in brackets, how much less than full "
        "fine-tuning. Published: the BSR paper's own accounting, for the methods that it has a rule for."
    )


def _readable(compared: Sequence[Report]) -> pd.DataFrame:
    names, made = _names(compared), []
    for place, row in enumerate(rows(compared)):
        cells = {"method": row["method"]}
        for name, one in zip(names, compared, strict=True):
            cells[_column(one, name)] = quality_text(one.rows[place], one.comparison.quality)
        for key in ("published", "saved", "peak"):
            size = row[f"{key}_bytes"]
            less = "—" if size is None else f"{format_mb(size)}{_less(compared, f'{key}_bytes', size)}"
            cells[f"{key} (MB)"] = less
        flops = row["train_flops"]
        cells["train GFLOPs a step"] = f"{format_gflops(flops, 0)}{_less(compared, 'train_flops', flops)}"
        made.append(cells)
    return pd.DataFrame(made)


def _column(one: Report, name: str) -> str:
    """The head of a data set's column."""
    unit = one.comparison.quality.unit
    return one.comparison.protocol.column(f"{name} ({unit})" if unit else name)


def _less(compared: Sequence[Report], key: str, size: int) -> str:
    whole = max(getattr(one.comparison.full, key) for one in compared)
    return f" ({format_number(whole / size, 2)}x)" if size else ""
