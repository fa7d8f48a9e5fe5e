"""``bsr-explore train``: one configuration, fine-tuned as its file says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer
from rich.markup import escape
from rich.progress import Progress

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, fail, format_seconds, out, resolved, table
from bsr_explorer.cli.progress import Heeding, heeding
from bsr_explorer.errors import UserError
from bsr_explorer.models.weights import check_weights
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import alone, check_writable
from bsr_explorer.store.records import Record, read_records, write_record, write_text
from bsr_explorer.train.datasets import check_data, default_data_dir
from bsr_explorer.train.recipes import recipe
from bsr_explorer.units import format_bytes, in_mb

if TYPE_CHECKING:
    from bsr_explorer.config import Config
    from bsr_explorer.run import Job

FILE, LOCK, CHECKPOINT = "train.toml", "train.lock", "checkpoint.pt"
"""What a training's folder holds beside its record."""


def train(
    file: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="A configuration's file, such as `export` writes.")
    ],
    epochs: Annotated[int | None, typer.Option(help="Epochs, instead of the file's.")] = None,
    train_size: Annotated[int | None, typer.Option(help="Training images, instead of the file's.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything that is random, instead of the file's.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The folder; runs/<name> if left out.")] = None,
    data_dir: options.DataDir = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto, instead of the file's device.")
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Evaluate on the test set too, at the end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune one configuration, with the data, weights, fidelity and seed of its file.

    Stop with Ctrl-C, or kill it; the same command goes on after the last epoch that was finished.

    Examples:

      bsr-explore train best.toml

      bsr-explore train best.toml --epochs 20 --seed 1 --test --out runs/long
    """
    experiment = Experiment.from_toml(file)
    fidelity, config = experiment.fidelity, experiment.config
    if epochs is not None:
        fidelity = replace(fidelity, epochs=epochs)
    if train_size is not None:
        fidelity = replace(fidelity, train_size=train_size)
    if device is not None:
        config = replace(config, device=resolved(device))
    seed = experiment.seed if seed is None else seed
    experiment = replace(experiment, config=config, fidelity=fidelity, seed=seed)
    where = data_dir or default_data_dir()
    _check(experiment, where)
    folder = folder or Path("runs") / experiment.name
    record = _run(experiment, folder, where, test, quiet=as_json)
    if as_json:
        print(json.dumps({"folder": str(folder), **record.to_dict()}))
    if record.accuracy is None:
        fail(f"{record.status}: {record.reason}; the record is in {folder}", code=1)
    if not as_json:
        _show(record, folder)


def _check(experiment: Experiment, data_dir: Path) -> None:
    """Everything that a user can have got wrong, before anything is loaded or written."""
    check_weights(experiment.weights)
    check_data(experiment.data, data_dir)
    recipe(experiment.fidelity.recipe, experiment.data, experiment.config.optimizer)
    options.checked_geometry(experiment.config, experiment.fidelity)


def _run(experiment: Experiment, folder: Path, data_dir: Path, test: bool, quiet: bool) -> Record:
    """The record of a training, from its folder if it has ended already."""
    from bsr_explorer.run import Job, device_of

    device_of(experiment.config)
    check_writable(folder)
    done = _stored(experiment, folder)
    if done is not None and done.status == "finished" and (done.test_accuracy is not None or not test):
        err.print(f"it was trained already; its record is in {folder}", markup=False)
        return done
    job = Job(
        data=experiment.data,
        fidelity=experiment.fidelity,
        weights=experiment.weights,
        seed=experiment.seed,
        data_dir=data_dir,
        test=test,
        checkpoint=folder / CHECKPOINT,
    )
    load(experiment.config, job)
    if not quiet:
        _announce(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, LOCK, "training"):
        write_text(folder / FILE, tomli_w.dumps(experiment.to_toml()))
        record = _train(experiment, job)
        write_record(folder, 0, record)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


def load(config: Config, job: Job) -> None:
    """Load weights and data once before anything is shown or written: what is wrong with them is found here.

    Raises:
        UserError: weights or data that are not there, or do not go with the configuration.
    """
    from bsr_explorer.models.names import timm_name
    from bsr_explorer.models.weights import create_model
    from bsr_explorer.run import load_data

    with err.status("loading weights and data…"):
        _, used = create_model(
            timm_name(config.model),
            image_size=job.fidelity.at(config).image_size,
            num_classes=config.num_classes,
            weights=job.weights,
            seed=job.seed,
        )
        load_data(config, replace(job, weights=used.source))


def _stored(experiment: Experiment, folder: Path) -> Record | None:
    """The record in a folder, if its training is this one; None where there is none yet.

    Raises:
        UserError: the folder holds another training, with the differences, or something else.
    """
    if not (folder / FILE).exists():
        if (folder / "records").exists():
            raise UserError(f"--out: {folder} holds records and no {FILE}; give another --out")
        return None
    differences = Experiment.from_toml(folder / FILE).differences(experiment)
    if differences:
        raise UserError(
            f"--out: {folder} holds another training ({'; '.join(differences)}); give the same settings to go "
            "on, or another --out"
        )
    return read_records(folder).get(0)


def _announce(experiment: Experiment) -> None:
    """What is to be trained, and what that holds."""
    config, fidelity = experiment.config, experiment.fidelity
    actual = fidelity.at(config)
    proxy = (
        "" if actual == config else f"; {format_bytes(predict(actual).peak_bytes)} at {actual.image_size} px"
    )
    out.print(
        f"[bold]{escape(str(config.method))}[/bold]\n{escape(config.model)}, batch {config.batch_size}, "
        f"{config.optimizer}, {config.precision}, {config.device}; weights {escape(experiment.weights)}, seed "
        f"{experiment.seed}\n{escape(experiment.data)}, {fidelity.train_size or 'all'} training images, "
        f"{fidelity.epochs or 'the recipe’s'} epochs at {actual.image_size} px, recipe {fidelity.recipe}\n"
        f"predicted peak: {format_bytes(predict(config).peak_bytes)} at {config.image_size} px{proxy}\n",
        soft_wrap=True,
    )


def _train(experiment: Experiment, job: Job) -> Record:
    from bsr_explorer.run import attempt

    key = experiment.config.key(geometry_of(experiment.config).depth)
    with watching_run(experiment.name) as watcher:
        try:
            return attempt(experiment.config, key, job, watcher.step)
        except KeyboardInterrupt:
            err.print("stopped; the same command goes on after the last epoch that was finished")
            raise SystemExit(130) from None


class Run(Heeding):
    """Keeps the bar of one training, and the time left at the pace so far."""

    def __init__(self, progress: Progress, what: str) -> None:
        super().__init__(progress)
        self.progress.update(self.bar, description=what)
        self.first: tuple[int, float] | None = None

    def step(self, done: int, total: int, loss: float) -> None:
        """Advance the bar. A training that goes on from a checkpoint does not begin at its first step."""
        self.heed()
        now = time.monotonic()
        first, began = self.first = self.first or (done, now)
        left = f"loss {loss:.3f}"
        if done > first:
            left += f", about {format_seconds((now - began) / (done - first) * (total - done))} left"
        self.progress.update(self.bar, completed=done / total, left=left)


@contextmanager
def watching_run(what: str) -> Iterator[Run]:
    """Show one training's progress on the error console, and heed Ctrl-C."""
    with heeding(lambda progress: Run(progress, what)) as watcher:
        yield watcher


def _show(record: Record, folder: Path) -> None:
    test = "" if record.test_accuracy is None else f", {100 * record.test_accuracy:.1f}% on test"
    out.print(
        f"accuracy {100 * (record.accuracy or 0):.1f}% ({record.accuracy_is}){test}; {record.images_trained:,} images "
        f"in {format_seconds(record.seconds)}; weights: {record.weights}",
        soft_wrap=True,
        markup=False,
    )
    measured = record.measured or {}
    rows = [
        (
            kind,
            f"{in_mb(measured[f'predicted_{kind}_bytes']):,.1f}",
            f"{in_mb(measured[f'{kind}_bytes']):,.1f}",
            f"{measured[f'{kind}_bytes'] - measured[f'predicted_{kind}_bytes']:+,} bytes",
        )
        for kind in ("peak", "saved")
        if f"predicted_{kind}_bytes" in measured
    ]
    if rows:
        columns = [f"of a step at {measured['image_size']} px", "predicted MB", "measured MB", "difference"]
        out.print(table(columns, rows))
    if "fault" in measured:
        out.print(str(measured["fault"]), style="red", markup=False)
    out.print(f"Written: {folder / 'records' / '0000.json'}", soft_wrap=True, markup=False)
