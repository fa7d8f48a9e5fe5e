"""``bsr-explore compare``: methods side by side, from real short fine-tunes over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, fail, out, resolved, table
from bsr_explorer.cli.progress import watching_tasks
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import parse_methods
from bsr_explorer.models.weights import check_weights
from bsr_explorer.store.study import COUNTS
from bsr_explorer.train.datasets import check_data, count_classes, default_data_dir
from bsr_explorer.train.recipes import recipe
from bsr_explorer.units import format_bytes, in_mb, in_mib, parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.report.comparison import Report
    from bsr_explorer.store.comparison import Comparison

KEPT = ("comparison.json", "step_seconds.json", "records")
"""What a comparison's folder holds beside what is written of it."""


def compare(
    methods: Annotated[
        str, typer.Option(help="Method expressions, separated by commas (see `list methods`).")
    ] = "full, linear, last(k=3), bsr, checkpoint",
    model: options.Model = "deit_s",
    data: options.Data = "digits",
    seeds: Annotated[int, typer.Option(help="Runs a method, with the seeds 0, 1, …")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="Memory with its unit, such as 2GB; what does not fit is not trained.")
    ] = None,
    budget_counts: Annotated[
        str,
        typer.Option("--budget-counts", "--count", help="What the budget counts: peak, saved or published."),
    ] = "peak",
    batch_size: options.BatchSize = 32,
    image_size: options.ImageSize = 224,
    precision: options.Precision = "fp32",
    attention: options.Attention = "fused",
    optimizer: Annotated[
        str | None, typer.Option(help="The recipe's own if left out, or its 8-bit kin: adamw_8bit.")
    ] = None,
    micro_batches: options.MicroBatches = 1,
    recipe_name: options.RecipeName = "short",
    weights: options.Weights = "auto",
    proxy_size: Annotated[
        int | None,
        typer.Option(
            help="Image size to train at (memory is counted at --image-size); its half if left out."
        ),
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(help="Training images a run; 500 at most if left out.")
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(help="Validation images a run; 500 at most if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs a run; the recipe's if left out.")] = None,
    rounds: Annotated[
        int, typer.Option(help="Steps to time of each method, in turn, at --image-size; 0: none.")
    ] = 5,
    folder: Annotated[
        Path | None, typer.Option("--out", help="The folder; compare-<model>-<data> if left out.")
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is predicted; train and write nothing.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare methods: accuracy, memory, FLOPs, time of a step, largest batch, each against full fine-tuning.

    Methods over the budget are never trained. Stop with Ctrl-C; the same command goes on.

    Examples:

      bsr-explore compare --model deit_s --data fashion_mnist --methods "full, linear, last(k=3), bsr()" --seeds 3

      bsr-explore compare --model deit_s --budget 2GB --dry-run
    """
    if budget_counts not in COUNTS:
        raise unknown("--budget-counts", budget_counts, COUNTS)
    if rounds < 0:
        raise UserError(f"--rounds: {rounds} must be a whole number of at least 0")
    if budget is not None:
        parse_bytes(budget)
    with _own_flags():
        chosen = parse_methods(methods)
    check_weights(weights)
    where = data_dir or default_data_dir()
    check_data(data, where)
    rules = recipe(recipe_name, data, optimizer)
    config = Config(
        model=model,
        image_size=image_size,
        num_classes=count_classes(data),
        batch_size=batch_size,
        precision=precision,
        optimizer=optimizer or rules.optimizer,
        attention=attention,
        micro_batches=micro_batches,
        device=resolved(device),
    )
    fidelity = Fidelity(proxy_size, train_size, val_size, epochs, recipe_name)
    options.checked_geometry(config, fidelity)
    from bsr_explorer.comparison import plan

    with _own_flags():
        planned = plan(config, chosen, data, weights, fidelity, seeds, budget, budget_counts)
    folder = folder or Path(f"compare-{model}-{Path(data).name}")
    _run(planned, folder, where, rounds, dry_run, as_json)


@contextmanager
def _own_flags() -> Iterator[None]:
    """What is wrong with a method is said of the flag that this command has."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--method:", "--methods:", 1)) from None


def _run(
    planned: Comparison, folder: Path, data_dir: Path, rounds: int, dry_run: bool, as_json: bool
) -> None:
    from bsr_explorer import comparison as comparing
    from bsr_explorer.report.comparison import report
    from bsr_explorer.run import device_of
    from bsr_explorer.search.plan import proxy_sizes
    from bsr_explorer.store.folder import check_writable

    config = Config.from_dict(planned.config)
    device_of(config)
    check_writable(folder)
    settled = comparing.stored(planned, folder)
    if settled is None:
        with err.status("loading weights and data…"):
            sizes = proxy_sizes(config)
            settled = comparing.settle(planned, data_dir, sizes[min(1, len(sizes) - 1)])
    if dry_run:
        _show_dry_run(settled, folder, len(comparing.tasks(settled, folder, rounds)), as_json)
        return
    with watching_tasks() as watcher:
        try:
            comparing.compare(settled, folder, data_dir, rounds, watcher)
        except KeyboardInterrupt:
            err.print("stopped; nothing finished is lost, and the same command goes on from here")
            raise SystemExit(130) from None
    made = report(folder)
    if not any(row["runs"] for row in made.rows):
        fail(f"no run finished: {made.notes[-1]}; the records are in {folder}", code=1)
    if as_json:
        print(json.dumps(_summary(made, folder)))
        return
    show_comparison(made, folder)


def show_comparison(made: Report, folder: Path) -> None:
    """Print the table, what went wrong, and where everything was written."""
    _show_table(made.comparison, made.rows)
    for note in made.notes:
        out.print(note, style="yellow", markup=False)
    out.print("\nWritten:")
    for path in [*made.files, *(folder / name for name in KEPT)]:
        if path.exists():
            out.print(f"  {path}", soft_wrap=True, markup=False)


def _show_table(comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    """A method takes two lines: what it comes to, and below that its ratios to full fine-tuning."""
    from bsr_explorer.report.comparison import accuracy_text, described, measured_text

    out.print(escape("\n".join(described(comparison))) + "\n")
    others = [kind for kind in ("peak", "saved") if kind != comparison.counts]
    budget = comparison.budget is not None
    columns = ["method", "accuracy %", f"{comparison.counts} MB", "MiB", *(f"{kind} MB" for kind in others)]
    columns += ["GFLOPs a step", "step s", *(["largest batch"] if budget else [])]
    columns.append(f"MB at {comparison.trained_at} px,\npredicted → measured")
    cells = []
    for entry, row in zip(comparison.entries, rows, strict=True):
        batch = _two(row, "largest_batch", "{:,}", "{:.2f}x")
        cells.append(
            [
                entry.label,
                f"{accuracy_text(row)}\n{_scaled(row['accuracy_minus_full'], '{:+.1f} points', 100)}",
                _memory(row, "counted"),
                f"{in_mib(row['counted_bytes']):,.1f}",
                *(_memory(row, kind) for kind in others),
                _two(row, "train_flops", "{:,.1f}", "{:.2f}x", 1e-9),
                _two(row, "step_seconds", "{:.3f}", "{:.2f}x"),
                *([batch] if budget else []),
                "\n".join(
                    f"{kind} {text}" for kind in ("peak", "saved") if (text := measured_text(row, kind))
                ),
            ]
        )
    out.print(table(columns, cells, left=(0,), fold=(0,)))
    full = comparison.full
    out.print(
        f"\nbelow each: its ratio to full fine-tuning ({format_bytes(full.counted_bytes)} counting "
        f"{comparison.counts}, {full.train_flops / 1e9:,.0f} GFLOPs a step)"
    )


def _memory(row: dict[str, Any], kind: str) -> str:
    less = _scaled(row[f"{kind}_full_over_this"], "{:.2f}x less")
    return f"{in_mb(row[f'{kind}_bytes']):,.1f}\n{less}"


def _two(row: dict[str, Any], key: str, form: str, ratio: str, scale: float = 1) -> str:
    return f"{_scaled(row[key], form, scale)}\n{_scaled(row[f'{key}_over_full'], ratio)}"


def _scaled(value: float | None, form: str, scale: float = 1) -> str:
    return "" if value is None else form.format(value * scale)


def _show_dry_run(comparison: Comparison, folder: Path, tasks: int, as_json: bool) -> None:
    from bsr_explorer.report.comparison import lines_of, row
    from bsr_explorer.store.comparison import StepTimes

    lines = lines_of(comparison, {}, StepTimes())
    rows = [row(line, lines, comparison) for line in lines]
    if as_json:
        answer = {**comparison.to_dict(), "methods": rows, "tasks_left": tasks, "folder": str(folder)}
        print(json.dumps(answer))
        return
    _show_table(comparison, rows)
    out.print(
        f"\n{tasks} runs and timings to do; folder {folder}\nNothing was trained or written (--dry-run).",
        markup=False,
    )


def _summary(made: Report, folder: Path) -> dict[str, Any]:
    return {
        **made.comparison.to_dict(),
        "methods": made.rows,
        "notes": made.notes,
        "folder": str(folder),
        "files": [str(path) for path in made.files],
    }
