"""One full training: checkpoints on the way, then weights, record and card in its folder.

Killed at any moment, it goes on when it is asked for again, to the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from bsr_explorer import damage, interrupt
from bsr_explorer.damage import Told
from bsr_explorer.data.contents import Contents
from bsr_explorer.data.places import check_data
from bsr_explorer.data.text import Texts
from bsr_explorer.errors import UserError
from bsr_explorer.files import whole
from bsr_explorer.finetune import job as jobs
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.finetune.build import build, device_of
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.watch import Progress, Watch
from bsr_explorer.models.weights import check_weights
from bsr_explorer.prediction import geometry_of
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import TRAINING, alone, check_writable
from bsr_explorer.store.records import Record, judged, read_records, write_record, write_text
from bsr_explorer.train.recipes import check_optimizer, recipe
from bsr_explorer.trained import card, onnx, peft
from bsr_explorer.trained import weights as trained

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.config import Config
    from bsr_explorer.data.splits import Splits

LOCK, CHECKPOINT = "train.lock", "checkpoint.pt"
"""What a training's folder holds beside its record and what is left of it."""

CHECKPOINT_SECONDS = 300.0
"""How much work a kill may cost, if nothing else is said."""


@dataclass(frozen=True)
class Training:
    """An experiment, and the folder that it is trained in.

    Attributes:
        data_dir: where datasets lie, or are put.
        test: whether the test set is evaluated, once, at the end.
        onnx: whether an ONNX file is written too.
        checkpoint_every: seconds of work that a kill may cost.
        origin: where the configuration comes from, in words; empty: from its file.
    """

    experiment: Experiment
    folder: Path
    data_dir: Path
    test: bool = False
    onnx: bool = False
    checkpoint_every: float = CHECKPOINT_SECONDS
    origin: str = ""

    @property
    def checkpoint(self) -> Path:
        """What it goes on from."""
        return self.folder / CHECKPOINT

    @property
    def job(self) -> Job:
        """How it is run."""
        return Job(
            data=self.experiment.data,
            fidelity=self.experiment.fidelity,
            weights=self.experiment.weights,
            seed=self.experiment.seed,
            data_dir=self.data_dir,
            test=self.test,
            every_epoch=True,
            checkpoint=self.checkpoint,
            checkpoint_every=self.checkpoint_every,
        )


def check(training: Training) -> None:
    """Refuse, before anything is loaded or written, what a user can have got wrong.

    Raises:
        UserError: it names the flag.
    """
    experiment = training.experiment
    check_weights(experiment.weights)
    check_data(experiment.data, training.data_dir)
    recipe(experiment.fidelity.recipe, experiment.data, experiment.config.optimizer)
    check_optimizer(experiment.config.optimizer)
    device_of(experiment.config)
    check_writable(training.folder)
    if training.onnx:
        onnx.check_exporter()


def ended(training: Training) -> Record | None:
    """The record of the folder, if this very training ended there and its weights are there; else None.

    Raises:
        UserError: the folder holds another training, with the differences, or something else.
    """
    folder = training.folder
    if not (folder / TRAINING).exists():
        if (folder / "records").exists():
            raise UserError(f"--out: {folder} holds records and no {TRAINING}; give another --out")
        return None
    differences = Experiment.from_toml(folder / TRAINING).differences(training.experiment)
    if differences:
        raise UserError(
            f"--out: {folder} holds another training ({'; '.join(differences)}); give the same settings to go "
            "on, or another --out"
        )
    record = read_records(folder).get(0)
    there = record is not None and record.status == "finished" and (folder / trained.FILE).exists()
    return record if there else None


def as_begun(training: Training) -> Training:
    """The training without the images that the training in its folder does without."""
    file, experiment = training.folder / TRAINING, training.experiment
    if experiment.fidelity.skip is not None or not file.exists():
        return training
    fidelity = replace(experiment.fidelity, skip=Experiment.from_toml(file).fidelity.skip)
    return replace(training, experiment=replace(experiment, fidelity=fidelity))


def try_out(
    training: Training, *, skip_bad: bool = False, told: Told = lambda done, total: None
) -> tuple[Training, Contents]:
    """Load weights and data once, and export the untrained model if that is asked for, before anything is trained or
    written: what is wrong with them is found here.

    Args:
        skip_bad, told: see ``damage.planned``.

    Returns:
        The training, without the images that are left out, and what it uses of its data.

    Raises:
        UserError: a method whose weights could not be saved; weights or data that are not there, or do not go with the
            configuration; damaged images; no export of this model.
    """
    experiment = training.experiment
    config = experiment.config
    trained.check(experiment.fidelity.at(config))
    job = jobs.try_out(config, training.job)
    fidelity = damage.planned(config, job, skip_bad=skip_bad, told=told)
    contents = jobs.load_data(config, replace(job, fidelity=fidelity)).contents
    if training.onnx:
        actual = training.experiment.fidelity.at(config)
        onnx.to_onnx(build(trained.at_inference(actual)).eval(), actual.image_size)
    return replace(training, experiment=replace(experiment, fidelity=fidelity)), contents


class _Keeping:
    """Keeps what was trained, and tells another watch the rest."""

    def __init__(self, other: Watch) -> None:
        self.other = other
        self.made: tuple[nn.Module, Splits | Texts] | None = None

    def peak(self, measured: int, predicted: int) -> None:
        """See ``Watch``."""
        self.other.peak(measured, predicted)

    def epoch(self, number: int, epochs: int, loss: float, score: float) -> None:
        """See ``Watch``."""
        self.other.epoch(number, epochs, loss, score)

    def trained(self, model: nn.Module, splits: Splits | Texts) -> None:
        """See ``Watch``."""
        self.made = model, splits
        self.other.trained(model, splits)


def train(training: Training, progress: Progress, watch: Watch) -> tuple[Record, list[Path]]:
    """Train, or go on, or find that it was done; then write what is missing of what is left.

    Returns:
        The record, and the files that are there: of a training that did not come to its end, what was to be trained,
        and the record.

    Raises:
        UserError: bad input, another training in the folder or at work there.
        OSError: the disk is full, or the like; what is needed to go on is still there.
    """
    folder = training.folder
    files = [folder / TRAINING, folder / "records" / "0000.json"]
    record = ended(training)
    if record is not None and _complete(training, record):
        return record, files + _left(training, record)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, LOCK, "training"):
        record = ended(training)
        if record is None:
            with interrupt.held():  # what was trained is written
                record = _trained(training, progress, watch)
        elif training.test and record.test_score is None:
            record = _tested(training, record)
        if record.status in ("finished", "diverged"):  # what failed may go on when its cause is gone
            training.checkpoint.unlink(missing_ok=True)
        if record.status == "finished":
            files += _left(training, record)
    return record, files


def _trained(training: Training, progress: Progress, watch: Watch) -> Record:
    experiment, folder = training.experiment, training.folder
    trained.check(experiment.fidelity.at(experiment.config))
    write_text(folder / TRAINING, _toml(training))
    for old in (trained.FILE, onnx.FILE, card.FILE):  # of a record that was removed
        (folder / old).unlink(missing_ok=True)
    keeping = _Keeping(watch)
    key = experiment.config.key(geometry_of(experiment.config).depth)
    record = attempt(experiment.config, key, training.job, progress, keeping)
    if keeping.made is not None and record.status == "finished":
        model, splits = keeping.made
        actual = experiment.fidelity.at(experiment.config)
        about = _about(actual, splits)
        with _kept(folder / trained.FILE):
            trained.save(folder / trained.FILE, model, about)
            peft.save(folder, model, actual)
    with _kept(folder / "records" / "0000.json"):
        write_record(folder, 0, record)
    return record


def _about(config: Config, splits: Splits | Texts) -> trained.About:
    """What stands beside the weights."""
    if isinstance(splits, Texts):
        return trained.About(config)
    mean, std = splits.mean_std
    return trained.About(config, mean, std, splits.interpolation, splits.classes, splits.squash)


def _toml(training: Training) -> str:
    """The experiment's file, which says where it comes from."""
    head = f"# {training.origin}\n\n" if training.origin else ""
    return head + tomli_w.dumps(training.experiment.to_toml())


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Where a file cannot be written, say that the work is not lost."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or error}; the last checkpoint is kept: the same command goes on from it"
        raise OSError(error.errno, why, str(path)) from error


def _tested(training: Training, record: Record) -> Record:
    """The record with the quality on test, of the weights that are there."""
    experiment, folder = training.experiment, training.folder
    source = record.weights.partition(":")[0]  # by which images are normalised
    model = trained.load(folder)
    score, by_task = jobs.score_on_test(model, experiment.config, replace(training.job, weights=source))
    record = replace(record, **judged(record.judged, record.score, score), test_accuracy_by_task=by_task)
    write_record(folder, 0, record)
    (folder / card.FILE).unlink(missing_ok=True)
    return record


def _left(training: Training, record: Record) -> list[Path]:
    """Write the ONNX file and the card where they are missing; the paths of all that is left."""
    folder = training.folder
    weights, exported, said = (folder / name for name in (trained.FILE, onnx.FILE, card.FILE))
    about = trained.read_about(weights)
    size = about.config.image_size
    if training.onnx and not exported.exists():
        said.unlink(missing_ok=True)
        content = onnx.to_onnx(trained.load(folder), size)
        onnx.difference(content, trained.load(folder), size)
        with whole(exported) as file:
            file.write(content)
    files = [weights, exported] if exported.exists() else [weights]
    if not said.exists():
        apart = None
        if exported.exists():
            apart = onnx.difference(exported.read_bytes(), trained.load(folder), size)
        write_text(said, card.model_card(training.experiment, record, about, files, apart, training.origin))
    return [*files, said]


def _complete(training: Training, record: Record) -> bool:
    """Whether nothing that is asked for is missing."""
    names = [trained.FILE, card.FILE, *([onnx.FILE] if training.onnx else [])]
    there = all((training.folder / name).exists() for name in names)
    return there and not (training.test and record.test_score is None)
