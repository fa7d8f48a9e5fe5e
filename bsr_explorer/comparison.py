"""Methods side by side: predicted, timed, and each trained once a seed. It survives being killed at any moment.

Each run leaves its record, written whole; the same comparison trains only what has none.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bsr_explorer import interrupt
from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Full, Method
from bsr_explorer.methods.base import Composed
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import create_model
from bsr_explorer.prediction import counted_bytes, geometry_of, largest_batch, predict
from bsr_explorer.store.comparison import (
    FILE,
    Comparison,
    Entry,
    StepTimes,
    read_comparison,
    read_runs,
    read_step_times,
)
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.store.folder import alone
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.store.study import FILE as STUDY
from bsr_explorer.train.datasets import count_classes
from bsr_explorer.train.recipes import recipe
from bsr_explorer.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.damage import Told
    from bsr_explorer.run import Job
    from bsr_explorer.train.contents import Contents
    from bsr_explorer.train.data import Splits

LOCK = "comparison.lock"

IMAGES = 500
"""Training images, and validation images, of a run for which nothing else is said (or one of each class)."""


class Watcher(Protocol):
    """What a user is shown while a comparison runs."""

    def begins(self, tasks: Sequence[Task]) -> None:
        """This is to be done, in this order."""

    def starts(self, task: Task) -> None:
        """The next of it begins."""

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        """One step of the current task is done."""

    def ends(self, task: Task, record: Record | None) -> None:
        """The task is over; a run has its record."""


@dataclass(frozen=True)
class Task:
    """Something to be done: one run, or (without an entry) the timing of steps.

    Attributes:
        flops: of all its steps.
    """

    what: str
    flops: int
    entry: Entry | None = None
    seed: int = 0


def plan(
    config: Config,
    methods: Sequence[Method],
    data: str,
    weights: str,
    fidelity: Fidelity,
    seeds: int,
    budget: str | None,
    counts: str,
) -> Comparison:
    """A comparison with all that can be said of it before anything runs.

    Args:
        config: of all methods (its own is of no account).
        fidelity, weights: what they leave open (None, ``auto``) is settled later.
        budget: memory with its unit, or None.
        counts: what the budget counts: key of ``COUNTS``.

    Raises:
        UserError: a method that does not go with the model, the same experiment twice, or a budget that
            holds none of the methods.
    """
    budget_bytes = None if budget is None else parse_bytes(budget)
    entries = tuple(_entry(config.with_method(method), budget_bytes, counts) for method in methods)
    keys = [entry.key for entry in entries]
    for place, entry in enumerate(entries):
        if entry.key in keys[:place]:
            other = entries[keys.index(entry.key)]
            raise UserError(
                f"--methods: {entry.method} is the same as {other.method} in this model; name one of them"
            )
    if not any(entry.fits for entry in entries):
        least = min(entries, key=lambda entry: entry.counted_bytes)
        raise UserError(
            f"--budget: {budget} holds none of the methods at batch {config.batch_size}; {least.method} needs "
            f"least, {format_bytes(least.counted_bytes)} counting {counts}"
        )
    return Comparison(
        config={key: value for key, value in config.to_dict().items() if key != "method"},
        data=data,
        weights=weights,
        fidelity=asdict(fidelity),
        seeds=seeds,
        budget=budget,
        budget_bytes=budget_bytes,
        counts=counts,
        full=_entry(config.with_method("full"), budget_bytes, counts),
        entries=entries,
    )


def plan_file(asked: ComparisonFile) -> list[Comparison]:
    """The comparisons of a file, one for each of its data sets, without a look at data or weights.

    Raises:
        UserError: as ``plan``, or an image folder that is not there.
    """
    return [
        plan(
            replace(asked.config, num_classes=count_classes(data)),
            asked.methods,
            data,
            asked.weights,
            asked.fidelity,
            asked.seeds,
            asked.budget,
            asked.counts,
        )
        for data in asked.data
    ]


def _entry(config: Config, budget_bytes: int | None, counts: str) -> Entry:
    predicted, counted = predict(config), counted_bytes(config, counts)
    return Entry(
        method=str(config.method),
        label=brief(config.how),
        key=config.key(geometry_of(config).depth),
        peak_bytes=predicted.peak_bytes,
        saved_bytes=predicted.saved_bytes,
        counted_bytes=counted,
        train_flops=predicted.train_flops,
        fits=budget_bytes is None or counted <= budget_bytes,
        largest_batch=None if budget_bytes is None else largest_batch(config, budget_bytes, counts),
        published_bytes=_published(config),
    )


def _published(config: Config) -> int | None:
    """By the paper's accounting, which has a rule for blocks that train or do not, and none for how their
    tensors are stored or which of their parameters train."""
    ruled = isinstance(config.how.canonical(geometry_of(config).depth), (Full, Bsr))
    return counted_bytes(config, "published") if ruled else None


def brief(method: Method) -> str:
    """A method's expression; a long one without the arguments that it needs not say."""
    if isinstance(method, Composed):
        return "+".join(map(brief, method.parts))
    if len(str(method)) <= LONG:
        return str(method)
    given = {f.name: getattr(method, f.name) for f in fields(method)}
    for name in list(given):
        fewer = {other: value for other, value in given.items() if other != name}
        if type(method)(**fewer) == method:
            given = fewer
    said = [f"{name}={value!r}" for name, value in given.items()]
    return f"{method.name}({', '.join(said)})" if said else method.name


LONG = 24
"""Characters of an expression that a table and a figure have room for."""


def stored(comparison: Comparison, folder: Path) -> Comparison | None:
    """The comparison as its folder completes it; None where the folder holds none yet of which a run has ended.

    Raises:
        UserError: the folder holds another comparison (with the differences), records of something else, or
            a file that cannot be read.
    """
    before = read_comparison(folder)
    if before is None:
        if (folder / STUDY).exists():
            raise UserError(
                f"--out: {folder} is the folder of a study, not of a comparison; give another --out, or use "
                f"`bsr-explore report {shlex.quote(str(folder))}` for what the study found"
            )
        if read_records(folder):
            raise UserError(
                f"--out: {folder} holds records and no {FILE}, so not of a comparison; give another --out"
            )
        return None
    records = read_records(folder).values()
    if all(record.status == "failed" and comparison.owns(record) for record in records):  # to be tried again
        return None
    same = comparison.completed_by(before)
    differences = before.differences(same)
    if differences:
        raise UserError(
            f"--out: {folder} holds another comparison ({'; '.join(differences)}); give the same settings to "
            "go on, or another --out"
        )
    read_runs(same, folder)
    read_step_times(folder)
    return same


def settle(
    comparison: Comparison,
    data_dir: Path,
    image_size: int,
    images: int | None = IMAGES,
    *,
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> Comparison:
    """Decide once what a comparison leaves open, so that all its runs are comparable.

    Weights and data are loaded, so that ``auto`` becomes what it found and sizes are known to exist.

    Args:
        image_size: side of the training images where nothing else is said, pixels.
        images: the most to train on, and to validate on, where nothing else is said (or one of each class);
            None: all, as under another protocol than the usual one.
        skip_bad, told: see ``damage.planned``.

    Raises:
        UserError: weights or data that are not there, or damaged images.
    """
    from bsr_explorer import damage  # what cannot be is refused without torch
    from bsr_explorer.run import Job, epochs_of

    config = _config(comparison, comparison.full)
    fidelity = Fidelity(**comparison.fidelity)
    fidelity = replace(fidelity, image_size=fidelity.image_size or image_size)
    rules = recipe(fidelity.recipe, comparison.data)
    _, used = create_model(
        timm_name(config.model),
        image_size=config.image_size,
        num_classes=config.num_classes,
        weights=comparison.weights,
        tag=rules.tag,
    )
    if comparison.protocol != HELD_OUT:
        images = None

    def of_all(given: Fidelity, splits: Splits) -> Fidelity:
        train, validation = len(splits.train), len(splits.validation)
        enough = train + validation if images is None else max(images, config.num_classes)
        train_size = given.train_size or min(enough, train)
        return replace(
            given,
            train_size=train_size,
            val_size=given.val_size or min(enough, validation),
            epochs=given.epochs or epochs_of(rules, train_size, config.batch_size),
        )

    job = Job(comparison.data, fidelity, used.source, data_dir=data_dir)
    fidelity = damage.planned(config, job, of_all, skip_bad=skip_bad, told=told)
    weights = used.source if comparison.weights == "auto" else comparison.weights
    return replace(comparison, fidelity=asdict(fidelity), weights=weights)


def keep(comparison: Comparison, folder: Path) -> None:
    """Write what is compared and predicted into a folder, and run nothing.

    Raises:
        UserError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, LOCK, "comparison"):
        comparison.write(folder)


def tasks(comparison: Comparison, folder: Path, rounds: int) -> list[Task]:
    """What is left to do in a folder: steps to time, then the runs without a record, a seed after the other.

    A run that failed is tried again; one that diverged has its result.
    """
    found = []
    if rounds and not read_step_times(folder).covers(comparison.fitting, rounds):
        flops = sum(entry.train_flops for entry in comparison.fitting)
        found.append(Task("step times", (1 + rounds) * flops))
    settled = {(r.key, r.seed) for r in read_records(folder).values() if r.status != "failed"}
    for seed in range(comparison.seeds):
        for entry in comparison.fitting:
            if (entry.key, seed) not in settled:
                found.append(Task(f"{entry.label}, seed {seed}", _run_flops(comparison, entry), entry, seed))
    return found


def compare(comparison: Comparison, folder: Path, data_dir: Path, rounds: int, watcher: Watcher) -> None:
    """Do what is left to do, and write it into the folder.

    Args:
        comparison: with nothing left open; see ``settle``.
        rounds: steps to time of each method, at the configuration's own image size; 0: none.

    Raises:
        UserError: another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with interrupt.held(), alone(folder, LOCK, "comparison"):
        comparison.write(folder)
        left = tasks(comparison, folder, rounds)
        watcher.begins(left)
        for task in left:
            interrupt.check()
            watcher.starts(task)
            record = None
            if task.entry is None:
                _time(comparison, rounds, watcher).write(folder)
            else:
                record = _train(comparison, task.entry, task.seed, data_dir, watcher)
                write_record(folder, _number(folder, record), record)
            watcher.ends(task, record)


def _time(comparison: Comparison, rounds: int, watcher: Watcher) -> StepTimes:
    """Steps of all methods that fit, in turn. (All of them stay in memory for it.)"""
    from bsr_explorer.timing import Stepper, in_turn

    steppers: dict[str, Stepper] = {}
    wrong: dict[str, str] = {}
    for entry in comparison.fitting:
        try:
            stepper = Stepper(_config(comparison, entry))
            stepper.seconds()  # makes the optimiser's state
            steppers[entry.key] = stepper
        except UserError:
            raise
        except Exception as error:  # not enough memory, say: the others can still be timed
            wrong[entry.key] = f"{type(error).__name__}: {error}"
        watcher.step(len(steppers) + len(wrong), (1 + rounds) * len(comparison.fitting))
    first = len(comparison.fitting)
    taken = in_turn(
        list(steppers.values()), rounds, lambda done, total: watcher.step(first + done, first + total)
    )
    seconds = dict(zip(steppers, taken, strict=True))
    return StepTimes(seconds, wrong, provenance(comparison.config["device"]))


def _train(comparison: Comparison, entry: Entry, seed: int, data_dir: Path, watcher: Watcher) -> Record:
    from bsr_explorer.run import attempt

    job = _job(comparison, data_dir, seed)
    return attempt(_config(comparison, entry), entry.key, job, watcher.step)


def _job(comparison: Comparison, data_dir: Path, seed: int = 0) -> Job:
    from bsr_explorer.run import Job

    return Job(comparison.data, Fidelity(**comparison.fidelity), comparison.weights, seed, data_dir)


def contents(comparison: Comparison, data_dir: Path) -> Contents:
    """What a settled comparison uses of its data."""
    from bsr_explorer.run import load_data

    return load_data(_config(comparison, comparison.full), _job(comparison, data_dir)).contents


def _number(folder: Path, record: Record) -> int:
    """The number of an earlier record of the same run, which is replaced, or the next one."""
    records = read_records(folder)
    same = [number for number, r in records.items() if (r.key, r.seed) == (record.key, record.seed)]
    return same[0] if same else max(records, default=-1) + 1


def _config(comparison: Comparison, entry: Entry) -> Config:
    return Config.from_dict({**comparison.config, "method": entry.method})


def _run_flops(comparison: Comparison, entry: Entry) -> int:
    fidelity = Fidelity(**comparison.fidelity)
    config = fidelity.at(_config(comparison, entry))
    costs = predict(config)
    trained = (fidelity.epochs or 0) * (fidelity.train_size or 0)
    evaluated = fidelity.val_size or 0
    return (trained * costs.train_flops + evaluated * costs.forward_flops) // config.batch_size
