"""``bsr-explore train``: one configuration, of a file or of a study's front, fine-tuned into a model that is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, fail, format_seconds, parse_seconds
from bsr_explorer.cli.progress import Showing, loading, showing
from bsr_explorer.cli.select import WORDS, selected
from bsr_explorer.cli.training_shown import announce, show_trained
from bsr_explorer.config import PROTOCOLS, Config, Fidelity
from bsr_explorer.data.expression import in_paths as data_in_paths
from bsr_explorer.data.places import classes_of, default_data_dir
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Method
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.models.names import in_paths
from bsr_explorer.models.weights import check_weights
from bsr_explorer.quality import ACCURACY, Quality
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import check_writable, read_study
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import RECIPES, check_optimizer
from bsr_explorer.train.recipes import recipe as rules_of
from bsr_explorer.trained.onnx import check_exporter
from bsr_explorer.units import format_mb, some

if TYPE_CHECKING:
    from bsr_explorer.trained.training import Training

FLAGS = {
    "model": "model",
    "method": "method",
    "data": "data",
    "image_size": "image-size",
    "batch_size": "batch-size",
    "precision": "precision",
    "attention": "attention",
    "optimizer": "optimizer",
    "lr": "lr",
}
"""Parameters that say a configuration, where neither a file nor a study does, and their flags."""

EXPORTS = ("onnx",)
"""What ``--export`` takes."""


def train(
    context: typer.Context,
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY|CONFIG.toml]",
            help="Folder of a study, or configuration file (see `export`), instead of the flags of a configuration: "
            f"{', '.join(f'--{name}' for name in FLAGS.values())}.",
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help=f"Of a study: {WORDS}; recommended if left out (see `select`)."),
    ] = None,
    as_searched: Annotated[
        bool,
        typer.Option(
            "--as-searched",
            help="Train as briefly as the trials of the study. Otherwise: full size, all images, the whole recipe.",
        ),
    ] = False,
    model: options.Model = "deit_s",
    method: options.Method = "bsr",
    data: options.Data = "digits",
    image_size: options.ImageSize = 224,
    batch_size: options.BatchSize = 32,
    precision: options.Precision = "fp32",
    attention: options.Attention = "fused",
    optimizer: Annotated[
        str | None, typer.Option(help="The recipe's if left out. adamw_8bit may replace adamw.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. The recipe's if left out.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Override the epochs.")] = None,
    train_size: Annotated[int | None, typer.Option(help="Override the number of training images.")] = None,
    val_size: Annotated[int | None, typer.Option(help="Override the number of validation images.")] = None,
    proxy_size: Annotated[
        int | None, typer.Option(help="Override the side of the training images, in pixels.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help=f"Override the recipe: {', '.join(RECIPES)}.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"Override the protocol: {', '.join(PROTOCOLS)} (see `compare`)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Override the seed of all random numbers.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Override the weights: auto, hub, offline, random, or a .safetensors or .pth file."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Override the device: cpu, cuda or auto.")] = None,
    gpu: options.Gpu = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder. runs/<name> if left out.")] = None,
    data_dir: options.DataDir = None,
    skip_bad: options.SkipBad = False,
    test: Annotated[
        bool, typer.Option("--test", help="Also evaluate on the test set, once, at the end.")
    ] = False,
    export: Annotated[
        str | None, typer.Option(help="onnx: also write model.onnx, and compare it with torch.")
    ] = None,
    checkpoint_every: Annotated[
        str,
        typer.Option(
            help="Time between checkpoints, such as 30s, 5m or 1h: the most work that a kill can cost."
        ),
    ] = "5m",
    as_json: options.Json = False,
) -> None:
    """Fine-tune one configuration and keep the model: of a study's front, of a file, or of flags.

    Its folder then holds model.safetensors, a model card and a record. The weights load into timm, but if the method
    drops tokens, timm, which drops none, gives other logits: use bsr_explorer.load or --export onnx. Stop with Ctrl-C,
    or kill it: the same command continues from the last checkpoint, and ends with the same weights.

    Examples:

      bsr-explore train reports/examples/deit_s-digits-2GB --select knee

      bsr-explore train reports/examples/deit_s-digits-2GB --select "under 1.5GB" --epochs 20 --test --export onnx

      bsr-explore train best.toml --seed 1 --out runs/again

      bsr-explore train --model llama_tiny --data python --sequence-length 128 --batch-size 16 --method full
    """
    if export is not None and export not in EXPORTS:
        raise unknown("--export", export, EXPORTS)
    seconds = parse_seconds(checkpoint_every, "--checkpoint-every")
    if what is None:
        for flag, there in (("--select", select is not None), ("--as-searched", as_searched)):
            if there:
                raise UserError(f"{flag}: there is no study to take a configuration of; give its folder")
        if not options.given(context, "model"):
            raise UserError(
                "STUDY|CONFIG.toml: say what to train: the folder of a study, a configuration file (see `export`), or "
                "the flags of a configuration, of which --model is needed"
            )
        options.check_model_data(data, data_dir or default_data_dir(), model)
        rules = rules_of(recipe or _recipe_for(model), data, optimizer)
        config = Config(
            model=model,
            image_size=image_size,
            batch_size=batch_size,
            precision=precision,
            optimizer=optimizer or rules.optimizer,
            attention=attention,
            method=method,
            lr=lr,
        ).with_classes(classes_of(data))
        config = config.with_method(_one(method, config))
        name = f"{in_paths(model)}-{data_in_paths(data)}-{in_paths(str(config.how))}"
        experiment = Experiment(name, config, data, fidelity=Fidelity(recipe=rules.name))
        origin, note = "", ""
    else:
        for parameter, flag in FLAGS.items():
            if options.given(context, parameter):
                raise UserError(f"--{flag}: {what} says it already; leave one of the two out")
        experiment, origin, note = (_of_study if what.is_dir() else _of_file)(what, select, as_searched)
    given: dict[str, Any] = {
        "image_size": proxy_size,
        "train_size": train_size,
        "val_size": val_size,
        "epochs": epochs,
        "recipe": recipe,
        "protocol": protocol,
    }
    config = experiment.config
    if device is not None or gpu is not None:
        config = replace(config, **options.place(context, device or "auto", gpu))
    experiment = replace(
        experiment,
        config=config,
        fidelity=Fidelity(
            **{**asdict(experiment.fidelity), **{k: v for k, v in given.items() if v is not None}}
        ),
        seed=experiment.seed if seed is None else seed,
        weights=weights or experiment.weights,
    )
    where, folder = data_dir or default_data_dir(), folder or Path("runs") / experiment.name
    # What needs no torch is refused before it is imported; `training.check` asks once more, and the rest.
    check_weights(experiment.weights)
    options.check_model_data(experiment.data, where, experiment.config.model)
    rules_of(experiment.fidelity.recipe, experiment.data, experiment.config.optimizer)
    check_optimizer(experiment.config.optimizer)
    check_writable(folder)
    if export == "onnx":
        if not quality_of(experiment.config.model).judges == "image":
            raise UserError(
                f"--export: onnx is for models of images, and {experiment.config.model} takes text; leave it out"
            )
        check_exporter()
    options.checked_geometry(experiment.config, experiment.fidelity)
    from bsr_explorer.trained import training

    asked = training.Training(
        experiment,
        folder=folder,
        data_dir=where,
        test=test,
        onnx=export == "onnx",
        checkpoint_every=seconds,
        origin=origin,
    )
    training.check(asked)
    asked = training.as_begun(asked)
    already = training.ended(asked) is not None
    if already:
        err.print(f"it was trained already; its record is in {asked.folder}", markup=False)
    else:
        with loading("loading weights and data…") as told:
            asked, contents = training.try_out(asked, skip_bad=skip_bad, told=told)
        if not as_json:
            announce(asked, note, contents)
    record, files = _run(asked)
    if as_json:
        said = {"folder": str(asked.folder), "files": [str(file) for file in files], "origin": origin}
        print(json.dumps({**said, **record.to_dict()}))
    if record.score is None:
        fail(f"{record.status}: {record.reason}; the record is in {asked.folder}", code=1)
    if not as_json:
        show_trained(record, files, "In its folder:" if already else "Written:")


def _recipe_for(model: str) -> str:
    """The recipe of a whole training, where none is asked for."""
    return "standard" if quality_of(model) is ACCURACY else "language"


def _one(method: str, config: Config) -> Method:
    """The one method of an expression, as it follows the model.

    Raises:
        UserError: there are several.
    """
    chosen = options.following(method, config)
    if len(chosen) > 1:
        raise UserError(f"--method: {method} is a list; one method is trained")
    return chosen[0]


def _of_file(file: Path, select: str | None, as_searched: bool) -> tuple[Experiment, str, str]:
    """The experiment of a file, which says everything."""
    for flag, there in (("--select", select is not None), ("--as-searched", as_searched)):
        if there:
            raise UserError(f"{flag}: {file} is not the folder of a study; give one, or leave {flag} out")
    return Experiment.from_toml(file), "", ""


def _of_study(study: Path, select: str | None, as_searched: bool) -> tuple[Experiment, str, str]:
    """The experiment of a configuration of a study, where it comes from, and how else it is trained."""
    settings = read_study(study)
    number, record, reason = selected(study, select or "recommended")
    experiment = Experiment.of_record(f"{settings.name}-trial-{number}", record, settings.weights)
    origin = f"Trial {number} of the study {study}. Taken because: {reason}."
    if as_searched:
        return experiment, origin, ""
    brief, quality = experiment.fidelity, record.judged
    note = (
        f"Not as in the search (--as-searched), where it saw {some(brief.train_size, quality.judges)} at "
        f"{quality.size(brief.image_size or experiment.config.image_size)}; epochs: {brief.epochs}, recipe: "
        f"{brief.recipe}."
    )
    return experiment.in_full(), origin, note


def _run(asked: Training) -> tuple[Record, list[Path]]:
    from bsr_explorer.trained import training

    protocol = PROTOCOLS[asked.experiment.fidelity.protocol]
    quality = quality_of(asked.experiment.config.model)
    with watching_run(asked.experiment.name, protocol.judged_on, quality) as watcher:
        return training.train(asked, watcher.step, watcher)


class Run(Showing):
    """Keeps the bar of one training, with what it holds and the time left at the pace so far, and says how each epoch
    ended."""

    def __init__(self, progress: Progress, what: str, judged_on: str, quality: Quality = ACCURACY) -> None:
        super().__init__(progress)
        self.what, self.judged_on, self.memory, self.left = what, judged_on, "", ""
        self.quality = quality
        self.progress.update(self.bar, description=what)
        self.first: tuple[int, float] | None = None

    def step(self, done: int, total: int, loss: float) -> None:
        """Advance the bar. A training that goes on from a checkpoint does not begin at its first step."""
        now = time.monotonic()
        first, began = self.first = self.first or (done, now)
        self.left = ""
        if done > first:
            self.left = f"about {format_seconds((now - began) / (done - first) * (total - done))} left"
        said = f"loss {loss:.3f}" + (f", {self.left}" if self.left else "")
        self.progress.update(self.bar, completed=done / total, left=said)

    def peak(self, measured: int, predicted: int) -> None:
        """Show what a step really held, beside its prediction."""
        self.memory = f"peak {format_mb(measured)} MB, predicted {format_mb(predicted)} MB"
        self.progress.update(self.bar, description=f"{self.what}, {self.memory}")

    def epoch(self, number: int, epochs: int, loss: float, score: float) -> None:
        """Say how an epoch ended."""
        said = [f"loss {loss:.3f}", f"{self._said(score)} on {self.judged_on}", self.memory]
        left = f"  [{self.left}]" if self.left and number < epochs else ""
        line = ", ".join(part for part in said if part)
        self.progress.console.print(f"epoch {number} of {epochs}: {line}{left}", markup=False)

    def _said(self, score: float) -> str:
        name = "" if self.quality.unit else f"{self.quality.name} "
        return name + self.quality.text(score)

    def trained(self, model: object, splits: object) -> None:
        """Say that what is left is being written."""
        self.progress.update(self.bar, left="writing the model…")


@contextmanager
def watching_run(what: str, judged_on: str, quality: Quality = ACCURACY) -> Iterator[Run]:
    """Show one training's progress on the error console."""
    with showing(lambda progress: Run(progress, what, judged_on, quality)) as watcher:
        yield watcher
