"""``bsr-explore compare``: methods side by side, from real short fine-tunes over several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.comparison_shown import Made, show_comparison, show_dry_run
from bsr_explorer.cli.console import err, fail, say_written
from bsr_explorer.cli.progress import loading, watching_tasks
from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.data.expression import in_paths as data_in_paths
from bsr_explorer.data.places import classes_of, default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.methods import parse_methods
from bsr_explorer.models.names import in_paths
from bsr_explorer.models.weights import check_weights
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.train.recipes import check_optimizer, recipe
from bsr_explorer.units import parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.store.comparison_folder import Comparison

KEPT = ("comparison.json", "step_seconds.json", "records")
"""What a comparison's folder holds beside what is written of it."""


def compare(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[COMPARISON.toml]", help="Comparison file, instead of the flags below."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Method expressions, separated by commas (see `list methods`).")
    ] = "full, linear, last, bsr, checkpoint",
    model: options.Model = "deit_s",
    data: options.Data = "digits",
    skip_bad: options.SkipBad = False,
    seeds: Annotated[int, typer.Option(help="Runs of each method, with the seeds 0, 1, …")] = 3,
    budget: Annotated[
        str | None,
        typer.Option(help="Memory with its unit, such as 2GB. Methods that do not fit are not trained."),
    ] = None,
    budget_counts: Annotated[
        str | None,
        typer.Option(
            "--budget-counts",
            "--count",
            help="What the budget counts: peak, reserved or device (of CUDA), saved or published. If left out: on CUDA "
            "reserved, else peak.",
        ),
    ] = None,
    budget_quantile: options.BudgetQuantile = 1.0,
    batch_size: options.BatchSize = 32,
    image_size: options.ImageSize = 224,
    precision: options.Precision = "fp32",
    attention: options.Attention = "fused",
    optimizer: Annotated[
        str | None, typer.Option(help="The recipe's if left out. adamw_8bit may replace adamw.")
    ] = None,
    micro_batches: options.MicroBatches = 1,
    recipe_name: options.RecipeName = "short",
    weights: options.Weights = "auto",
    proxy_size: Annotated[
        int | None,
        typer.Option(
            help="Image size to train at (memory is counted at --image-size). Half of it if left out."
        ),
    ] = None,
    train_size: Annotated[
        int | None,
        typer.Option(
            help="Training images of a run. At most 500 if left out (all, with the protocol authors)."
        ),
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(help="Validation images of a run. At most 500 if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a run. The recipe's if left out.")] = None,
    protocol: options.ProtocolName = HELD_OUT.name,
    rounds: Annotated[
        int, typer.Option(help="Timed steps of each method, in turn, at --image-size. 0: none.")
    ] = 5,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder. compare-<model>-<data>, or compare-<name of the file>, if left out."
        ),
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    gpu: options.Gpu = None,
    unknown: options.Unknown = "refuse",
    costs_only: Annotated[
        bool,
        typer.Option(
            "--costs-only", help="Memory and FLOPs only. Needs no data and no weights, trains nothing."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is predicted. Nothing is trained or written.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare methods: accuracy, memory, FLOPs, time of a step, largest batch, each against full fine-tuning.

    Methods over the budget are never trained. Stop with Ctrl-C; the same command continues.

    Examples:

      bsr-explore compare --model deit_s --data fashion_mnist --methods "full, linear, last(k=3), bsr()" --seeds 3

      bsr-explore compare --model deit_s --budget 2GB --dry-run

      bsr-explore compare --model deit_s --budget 8GB --gpu orin_nano --costs-only

      bsr-explore compare studies/paper/figure1_vit_b_cifar10.toml --costs-only
    """
    where = data_dir or default_data_dir()
    how = How(where, costs_only, dry_run, as_json, skip_bad)
    if file is not None:
        options.refuse_flags(context, _BESIDE_FILE)
        asked = ComparisonFile.from_toml(file)
        if options.given(context, "device") or gpu:
            asked = asked.on(**options.place(context, device, gpu))
        asked = replace(asked, config=replace(asked.config, unknown=unknown))
        _run_file(asked, folder or Path(f"compare-{asked.name}"), how)
        return
    if rounds < 0:
        raise UserError(f"--rounds: {rounds} must be a whole number of at least 0")
    if budget is not None:
        parse_bytes(budget)
    with _own_flags():
        parse_methods(methods)  # which refuses at once what is no method
    rules = recipe(recipe_name, data, optimizer)
    how.check(weights, data, optimizer or rules.optimizer, model)
    config = Config(
        model=model,
        image_size=image_size,
        batch_size=batch_size,
        precision=precision,
        optimizer=optimizer or rules.optimizer,
        attention=attention,
        micro_batches=micro_batches,
        unknown=unknown,
        **options.place(context, device, gpu),
    ).with_classes(classes_of(data))
    counts = options.counts(budget_counts, config)
    fidelity = Fidelity(proxy_size, train_size, val_size, epochs, recipe_name, protocol=protocol)
    geometry = options.checked_geometry(config, fidelity)
    from bsr_explorer.compare.folder import IMAGES
    from bsr_explorer.compare.plan import plan
    from bsr_explorer.search.proxies import proxy_sizes

    with _own_flags():
        chosen = options.following(methods, config)
        if not options.given(context, "methods"):  # in a small model two of them may be the same
            chosen = list({method.canonical(geometry.depth): method for method in reversed(chosen)}.values())[
                ::-1
            ]
        quantile = options.quantile(budget_quantile, counts, map(config.with_method, chosen))
        planned = plan(config, chosen, data, weights, fidelity, seeds, budget, counts, quantile)
    sizes = proxy_sizes(config)
    openly = Open(sizes[min(1, len(sizes) - 1)], IMAGES)
    made = _run(
        planned, folder or Path(f"compare-{in_paths(model)}-{data_in_paths(data)}"), how, rounds, openly
    )
    if as_json:
        print(json.dumps(made.summary()))


_BESIDE_FILE = (
    "file",
    "folder",
    "data_dir",
    "device",
    "gpu",
    "unknown",
    "costs_only",
    "dry_run",
    "as_json",
    "skip_bad",
)
"""Parameters that may be given beside a comparison's file."""


@dataclass(frozen=True)
class How:
    """How far a comparison is to go, whatever is compared."""

    data_dir: Path
    costs_only: bool
    dry_run: bool
    quiet: bool
    skip_bad: bool = False

    def check(self, weights: str, data: str, optimizer: str, model: str) -> None:
        """Check, before any work is done, what runs need and costs do not.

        Raises:
            UserError: weights, data or a package that are not there.
        """
        if not self.costs_only:
            check_optimizer(optimizer)
            check_weights(weights)
            options.check_model_data(data, self.data_dir, model)


@dataclass(frozen=True)
class Open:
    """What runs are given where nothing is said.

    Attributes:
        image_size: side of the training images, pixels.
        images: the most to train on; None: all.
    """

    image_size: int
    images: int | None


def _run_file(asked: ComparisonFile, folder: Path, how: How) -> None:
    """One comparison for each data set of a file; several have folders of their own, and a table in common."""
    from bsr_explorer.compare.plan import plan_file
    from bsr_explorer.report.comparison import datasets

    for data in asked.data:
        recipe(asked.fidelity.recipe, data, asked.config.optimizer)
        how.check(asked.weights, data, asked.config.optimizer, asked.config.model)
    options.checked_geometry(asked.config, asked.fidelity)
    several = len(asked.data) > 1
    made = []
    for planned in plan_file(asked):
        own = folder / Path(planned.data).name if several else folder
        made.append(_run(planned, own, how, asked.rounds, Open(asked.config.image_size, None)))
    files = [] if how.dry_run or not several else datasets.write([each.report for each in made], folder)
    if how.quiet:
        answers = [each.summary() for each in made]
        said = {"name": asked.name, "comparisons": answers, "files": [str(path) for path in files]}
        print(json.dumps(said if several else answers[0]))
    elif files:
        say_written(files, "Written for all data sets:")


@contextmanager
def _own_flags() -> Iterator[None]:
    """What is wrong with a method is said of the flag that this command has."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--method:", "--methods:", 1)) from None


def _run(planned: Comparison, folder: Path, how: How, rounds: int, openly: Open) -> Made:
    """Do what is asked of one comparison, and show it (unless all is said in one JSON object at the end)."""
    from bsr_explorer.compare import folder as folders
    from bsr_explorer.compare.task import tasks
    from bsr_explorer.store.folder import check_writable

    check_writable(folder)
    before = folders.stored(planned, folder)
    settled = before or planned
    from bsr_explorer.report.comparison.write import predicted, report

    if not how.costs_only:
        from bsr_explorer.finetune.build import device_of

        if not how.dry_run:
            device_of(Config.from_dict(planned.config))
        if before is None or not before.settled or tasks(before, folder, rounds):
            with loading("loading weights and data…") as told:  # what is wrong with them is found here
                settled = folders.settle(
                    settled, how.data_dir, openly.image_size, openly.images, skip_bad=how.skip_bad, told=told
                )
            if not how.quiet:
                err.print(str(folders.contents(settled, how.data_dir)), markup=False)
    if how.dry_run:
        left = 0 if how.costs_only else len(tasks(settled, folder, rounds))
        planned_only = Made(predicted(settled), folder, left)
        if not how.quiet:
            show_dry_run(planned_only)
        return planned_only
    if how.costs_only:
        folders.keep(settled, folder)
    else:
        _train(settled, folder, how, rounds)
    written = report(folder)
    if not how.costs_only and not any(row["runs"] for row in written.rows):
        fail(f"no run finished: {written.notes[-1]}; the records are in {folder}", code=1)
    if not how.quiet:
        show_comparison(written)
        say_written([*written.files, *(folder / name for name in KEPT if (folder / name).exists())])
    return Made(written, folder)


def _train(settled: Comparison, folder: Path, how: How, rounds: int) -> None:
    from bsr_explorer.compare.run import compare as train_all

    with watching_tasks() as watcher:
        train_all(settled, folder, how.data_dir, rounds, watcher)
