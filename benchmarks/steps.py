"""A prediction beside a real step, as a line of a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bsr_explorer.cli.console import out, table
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.prediction import predict

COLUMNS = ("saved bytes", "saved off", "FLOPs off", "held off", "peak MB", "peak off", "peak off %")


def arguments(said: str | None) -> argparse.ArgumentParser:
    """The flags that such benchmarks share."""
    parser = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, help="so many of them, spread over all; all, if left out")
    parser.add_argument("--minutes", type=float, default=30.0, help="no further one is begun then")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    return parser


def spread_over(configs: Sequence[Config], count: int | None) -> list[Config]:
    """So many of them, evenly."""
    if count is None or count >= len(configs):
        return [*configs]
    return [configs[place * len(configs) // count] for place in range(count)]


def compared(configs: Iterable[Config], minutes: float) -> Iterator[dict[str, Any]]:
    """One row each, until the time is over."""
    ends = time.monotonic() + 60 * minutes
    for config in configs:
        if time.monotonic() > ends:
            return
        yield compare(config)


def compare(config: Config) -> dict[str, Any]:
    """A prediction and a real step. ``off`` says whether a byte or a FLOP is, or the peak by more than 1%."""
    row: dict[str, Any] = {
        "model": config.model,
        "size": config.image_size,
        "batch": config.batch_size,
        "precision": config.precision,
        "attention": config.attention,
        "method": str(config.method),
    }
    try:
        predicted, measured = predict(config), measure(config)
    except UserError as error:
        return {**row, **dict.fromkeys(COLUMNS, 0), "off": True, "why": str(error)}
    saved = predicted.saved_bytes - measured.saved_bytes
    flops = predicted.train_flops - measured.train_flops
    held = predicted.held_bytes - measured.held_bytes
    peak = predicted.peak_bytes - measured.peak_bytes
    percent = 100 * peak / measured.peak_bytes
    return {
        **row,
        "saved bytes": measured.saved_bytes,
        "saved off": saved,
        "FLOPs off": flops,
        "held off": held,
        "peak MB": round(measured.peak_bytes / 1e6, 2),
        "peak off": peak,
        "peak off %": round(percent, 4),
        "off": bool(saved or flops or held or abs(percent) > 1),
        "why": "",
    }


def show(rows: Sequence[dict[str, Any]], as_json: bool, differ: bool = False) -> None:
    """The table, and what it comes to; the process ends with 1 if something is off.

    Args:
        differ: whether something else is.
    """
    missed = [row for row in rows if row["off"]]
    if as_json:
        print(json.dumps(rows))
        sys.exit(bool(missed) or differ)
    heads = [head for head in rows[0] if head not in ("size", "batch", "off", "why")] if rows else []
    shown = [[f"{row[head]:,}" if head in COLUMNS else str(row[head]) for head in heads] for row in rows]
    out.print(table(heads, shown, left=(0, 1, 2, 3), fold=(0,)))
    exact = sum(not row["peak off"] for row in rows)
    worst = max((abs(row["peak off %"]) for row in rows), default=0.0)
    out.print(
        f"{len(rows)} configurations: {len(missed)} off; peaks {exact} to the byte, worst {worst:.4f}% off"
    )
    for row in missed:
        out.print(
            f"off: {row['model']}, {row['precision']}, {row['method']}: {row['why'] or 'see above'}",
            markup=False,
        )
    sys.exit(bool(missed) or differ)
