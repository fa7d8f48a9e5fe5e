"""``bsr-explore max-batch``: the largest batch that a budget holds, for several methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, table
from bsr_explorer.cli.profile_shown import show_compared
from bsr_explorer.config import Config
from bsr_explorer.devices import device_of
from bsr_explorer.ledger import said_bound
from bsr_explorer.models.architecture import architecture_of
from bsr_explorer.prediction import check_ruled, counted_bytes, largest_batch, predict, size_of
from bsr_explorer.store.study import said_counts
from bsr_explorer.units import format_bytes, format_gflops, format_mb, format_mib, parse_bytes


def max_batch(
    context: typer.Context,
    model: options.Model = "deit_s",
    budget: Annotated[str, typer.Option(help="Memory with its unit: 2GB, 512MiB, …")] = "2GB",
    method: Annotated[
        str, typer.Option(help="Method expressions, separated by commas (see `list methods`).")
    ] = "full, checkpoint, last, bsr, bsr+checkpoint, linear",
    budget_counts: options.BudgetCounts = None,
    budget_quantile: options.BudgetQuantile = 1.0,
    image_size: options.ImageSize = 224,
    num_classes: options.Classes = 10,
    tasks: options.Tasks = None,
    optimizer: options.Optimizer = "adamw",
    precision: options.Precision = "fp32",
    implementation: options.Implementation = "auto",
    attention: options.Attention = "fused",
    micro_batches: options.MicroBatches = 1,
    set_to_none: options.SetToNone = True,
    device: options.Device = "cpu",
    gpu: options.Gpu = None,
    unknown: options.Unknown = "refuse",
    as_json: options.Json = False,
) -> None:
    """Find the largest batch that fits a budget, for one method or several.

    Examples:

      bsr-explore max-batch --model deit_s --budget 2GB

      bsr-explore max-batch --model vit_b --budget 4GiB --method "full, bsr, bsr+checkpoint()" --precision amp_bf16
    """
    budget_bytes = parse_bytes(budget)
    config = Config(
        model=model,
        image_size=image_size,
        batch_size=micro_batches,
        precision=precision,
        optimizer=optimizer,
        attention=attention,
        implementation=implementation,
        micro_batches=micro_batches,
        set_to_none=set_to_none,
        unknown=unknown,
        **options.head(context, num_classes, tasks),
        **options.place(context, device, gpu),
    )
    counts = options.counts(budget_counts, config)
    chosen = options.following(method, config)
    for each in chosen:
        check_ruled(config.with_method(each), counts)
    quantile = options.quantile(budget_quantile, counts, map(config.with_method, chosen))
    found = [_row(config.with_method(each), budget_bytes, counts, quantile) for each in chosen]
    if as_json:
        answer = {
            "config": {key: v for key, v in config.to_dict().items() if key not in ("method", "batch_size")},
            "budget_bytes": budget_bytes,
            "counts": counts,
            "quantile": quantile,
            "compared": device_of(config.place).compared,
            "methods": found,
        }
        print(json.dumps(answer))
        return
    columns = ["method", "largest batch", "MB", "MiB", "a larger one needs MB"]
    columns.append(f"train GFLOPs {architecture_of(config.model).takes.one}")
    rows = [_cells(row, counts) for row in found]
    out.print(
        f"[bold]{model}[/bold], {size_of(config)}, {optimizer}, {precision}, {attention} attention, {config.place}; "
        f"budget {budget} = {format_bytes(budget_bytes)}, counting {counts} ({said_counts(counts, quantile)})\n"
    )
    out.print(table(columns, rows, left=(0,), fold=(0,)))
    if counts in ("reserved", "device"):
        out.print("reserved memory does not quite grow with the batch: a somewhat larger one may fit again")
    for said in dict.fromkeys(said for row in found for said in row.get("unknown", ())):
        out.print(said, style="yellow", markup=False, soft_wrap=True)
    show_compared(config)


def _cells(row: dict[str, Any], counts: str) -> tuple[str, ...]:
    """A row of the table. Of what needs at least so much, at most so many images fit."""
    bounds = row.get("at_least", ())
    least = said_bound(f"{counts}_bytes", bounds)
    return (
        row["method"],
        f"{'≤ ' if least else ''}{row['batch_size']:,}" if row["batch_size"] else "none fits",
        least + _amount(row["counted_bytes"], format_mb),
        least + _amount(row["counted_bytes"], format_mib),
        least + _amount(row["next_bytes"], format_mb),
        said_bound("train_flops", bounds) + format_gflops(row["train_flops_per_image"]),
    )


def _row(config: Config, budget_bytes: int, counts: str, quantile: float) -> dict[str, Any]:
    batch = largest_batch(config, budget_bytes, counts, quantile)
    following = replace(config, batch_size=batch + config.micro_batches)
    here = replace(config, batch_size=batch) if batch else following
    predicted = predict(here)
    bounds = {
        "at_least": sorted(predicted.at_least),
        "unknown": [str(each) for each in predicted.unknown],
    }
    return {
        "method": str(config.method),
        "batch_size": batch,
        "counted_bytes": counted_bytes(here, counts, quantile) if batch else None,
        "next_batch_size": following.batch_size,
        "next_bytes": counted_bytes(following, counts, quantile),
        "train_flops_per_image": predicted.train_flops / here.batch_size,
        **(bounds if predicted.unknown else {}),
    }


def _amount(size: int | None, said: Callable[[int], str]) -> str:
    return "" if size is None else said(size)
