"""Running a configuration for real: build it, measure a step of it, fine-tune it into a record."""

from __future__ import annotations

import gc
import json
import logging
import math
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from bsr_explorer import interrupt
from bsr_explorer.config import CHOICES, HELD_OUT, PROTOCOLS, Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement import flops
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.measurement.step import Measurement, measure_step, peak_of
from bsr_explorer.methods.surgery import use_attention_path
from bsr_explorer.models.hub import pretrained_cfg
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import WeightsUsed, create_model
from bsr_explorer.prediction import geometry_of, predict, tape_of
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record
from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.data import Splits, load_splits, loader
from bsr_explorer.train.datasets import default_data_dir
from bsr_explorer.train.frozen import Stage
from bsr_explorer.train.loop import evaluate, fit, make_optimizer
from bsr_explorer.train.prefix import Cache, Changed, Prefix
from bsr_explorer.train.recipes import IMAGENET, MeanStd, Recipe, recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision
from bsr_explorer.units import format_bytes

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


class Watch(Protocol):
    """Is told what a fine-tune comes to on its way."""

    def peak(self, measured: int, predicted: int) -> None:
        """What a steady step held, and what was predicted for it, in bytes. Told once, and when training goes on."""

    def epoch(self, number: int, epochs: int, loss: float, accuracy: float) -> None:
        """After an epoch (from 1) that was evaluated: its mean loss, and the accuracy in [0, 1] on the part of the data
        that the protocol judges by."""

    def trained(self, model: nn.Module, splits: Splits) -> None:
        """The model at its end, where it came to it, and the data."""


class Nobody:
    """Does nothing with what it is told."""

    def peak(self, measured: int, predicted: int) -> None:
        """See ``Watch``."""

    def epoch(self, number: int, epochs: int, loss: float, accuracy: float) -> None:
        """See ``Watch``."""

    def trained(self, model: nn.Module, splits: Splits) -> None:
        """See ``Watch``."""


_NOBODY = Nobody()


def build(config: Config, pretrained: bool = False, weights: str | None = None, seed: int = 0) -> nn.Module:
    """A model ready to train: method applied, ``requires_grad`` set.

    Args:
        pretrained: shorthand for ``weights="auto"``; otherwise weights are random.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        seed: of the random weights (those of the head always are).

    Raises:
        UserError: model, method and weights do not go together.
    """
    return _build(config, weights or ("auto" if pretrained else "random"), seed)[0]


def _build(
    config: Config, weights: str, seed: int, rules: Recipe | None = None
) -> tuple[nn.Module, WeightsUsed]:
    geometry_of(config)  # refuses what is not understood before anything is built
    model, used = create_model(
        timm_name(config.model),
        image_size=config.image_size,
        num_classes=config.num_classes,
        weights=weights,
        seed=seed,
        tag=rules.tag if rules else None,
        head_std=rules.head_std if rules else None,
    )
    use_attention_path(model, config.attention)
    return config.how.apply(model), used


def pick_device(device: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in CHOICES["device"]:
        raise UserError(f"--device: unknown device {device!r}; choose auto, {' or '.join(CHOICES['device'])}")
    return device


def device_of(config: Config) -> torch.device:
    """The device that a configuration's steps run on.

    Raises:
        UserError: it is not here.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device is available here; choose cpu or auto")
    return torch.device(config.device)


def make_step(model: nn.Module, config: Config, rules: Recipe, kind: type[Step] = Step) -> Step:
    """The training step of a configuration: its optimiser, precision and micro-batches, a recipe's rates."""
    optimizer = make_optimizer(model, rules, config.batch_size, config.optimizer, config.implementation)
    return kind(
        model,
        optimizer,
        precision=config.precision,
        micro_batches=config.micro_batches,
        set_to_none=config.set_to_none,
        clip=rules.clip,
        label_smoothing=rules.label_smoothing,
    )


def measure(config: Config) -> Ledger:
    """The ledger of real training steps on this machine, with random weights and images."""
    return measure_in_full(config).ledger


def measure_in_full(config: Config) -> Measurement:
    """``measure``, with the operations that no FLOP counter knows."""
    device = device_of(config)
    model = in_precision(build(config), config.precision).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape, generator=generator).to(device, image_dtype(config.precision))
    labels = torch.randint(config.num_classes, (config.batch_size,), generator=generator).to(device)
    return measure_step(make_step(model, config, _plain(config)), images, labels)


def _plain(config: Config) -> Recipe:
    """A recipe that adds nothing to what the configuration says; as in others, AdamW decays weights."""
    decay = 0.05 if config.optimizer.startswith("adamw") else 0.0
    return Recipe("measure", "", config.optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=1)


def second_opinion(config: Config) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward FLOPs of a step, and the operations that it does not see."""
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    return flops.second_opinion(build(config).eval(), torch.zeros(shape))


@dataclass(frozen=True)
class Job:
    """What a fine-tune needs beside its configuration.

    Attributes:
        data: name of a dataset or path of an image folder.
        data_dir: where datasets lie, or are put.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        every_epoch: whether validation is evaluated after each epoch, and not at the end alone. (The authors' protocol
            is evaluated as often as the recipe says.)
        test: whether the test set is evaluated too, once, at the end. A search never does. (The authors' protocol looks
            at nothing else.)
        rungs: the least accuracy in [0, 1] with which training goes on after so many epochs, whereupon
            validation is evaluated whatever the value (``-inf``: only look; ``inf``: go no further).
        checkpoint: a file that is written after each epoch but the last, and stays. If there is one, of the same
            configuration, seed, data and fidelity, training goes on from it, as if it had never been interrupted.
        checkpoint_every: seconds after which it is written within an epoch too.
        cache: where the outputs of blocks below what trains are kept and found, to be made once; None: nowhere.
            The accuracy is the same.
    """

    data: str = "digits"
    fidelity: Fidelity = field(default_factory=Fidelity)
    weights: str = "auto"
    seed: int = 0
    data_dir: Path | None = None
    test: bool = False
    every_epoch: bool = False
    rungs: Mapping[int, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_every: float = math.inf
    cache: Cache | None = None


TOLERANCE = 0.02
"""By how much a run may exceed its predicted peak before it is recorded as a fault of the cost model."""


def fine_tune(
    config: Config,
    data: str = "digits",
    fidelity: Fidelity | None = None,
    weights: str = "auto",
    seed: int = 0,
    data_dir: Path | None = None,
    test: bool = False,
    every_epoch: bool = False,
    rungs: Mapping[int, float] = MappingProxyType({}),
    checkpoint: Path | None = None,
    checkpoint_every: float = math.inf,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, loss: None,
) -> Record:
    """Fine-tune a configuration and say everything about it in a record.

    See ``Job`` for the arguments. Divergence is a result (status ``diverged``), not an error.

    Raises:
        UserError: bad input, found before training starts.
    """
    job = Job(
        data=data,
        fidelity=fidelity or Fidelity(),
        weights=weights,
        seed=seed,
        data_dir=data_dir,
        test=test,
        every_epoch=every_epoch,
        rungs=dict(rungs),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        cache=cache,
    )
    return run(config, job, progress)


def load_data(config: Config, job: Job) -> Splits:
    """The splits that a job trains and validates on.

    Raises:
        UserError: data that is not there, or that has another number of classes.
    """
    rules = recipe(job.fidelity.recipe, job.data, config.optimizer)
    mean, std = rules.mean_std or _pretrained_mean_std(config, job.weights)
    splits = load_splits(
        job.data,
        image_size=job.fidelity.at(config).image_size,
        data_dir=job.data_dir or default_data_dir(),
        mean=mean,
        std=std,
        augment=rules.augment,
        crop_scale=rules.crop_scale,
        train_size=job.fidelity.train_size,
        val_size=job.fidelity.val_size,
        interpolation=rules.interpolation,
        squash=rules.squash,
        views=job.fidelity.views,
        skip=job.fidelity.skip or (),
        hold_out=job.fidelity.protocol == HELD_OUT.name,
    )
    if splits.num_classes != config.num_classes:
        raise UserError(
            f"--num-classes: the configuration has {config.num_classes} classes and {job.data} has "
            f"{splits.num_classes}"
        )
    return splits


def try_out(config: Config, job: Job) -> Job:
    """Load weights and data once, before anything is trained or written: what is wrong with them is found here.

    Returns:
        The job, with the weights that ``auto`` is.

    Raises:
        UserError: weights or data that are not there, or do not go with the configuration.
    """
    rules = recipe(job.fidelity.recipe, job.data)
    _, used = create_model(
        timm_name(config.model),
        image_size=job.fidelity.at(config).image_size,
        num_classes=config.num_classes,
        weights=job.weights,
        seed=job.seed,
        tag=rules.tag,
    )
    job = replace(job, weights=used.source)
    load_data(config, job)
    return job


def _pretrained_mean_std(config: Config, weights: str) -> MeanStd:
    """The normalisation that the weights were pretrained with: timm says it of its own, and the offline
    weights are DINOv2's, which took ImageNet's."""
    if weights == "offline":
        return IMAGENET
    own = pretrained_cfg(timm_name(config.model))
    return (tuple(own.mean), tuple(own.std)) if own is not None else IMAGENET


def run(
    config: Config,
    job: Job,
    progress: Progress = lambda done, total, loss: None,
    watch: Watch = _NOBODY,
) -> Record:
    """Fine-tune one configuration as the job says: from the start again, where what was kept of blocks turns out to be
    wrong after steps went by it."""
    try:
        return _run(config, job, progress, watch)
    except Changed as why:
        LOG.warning("%s; training begins again, and they run in each step", why)
    # The exception is gone, and with it its frames and what they held.
    if job.checkpoint is not None:
        job.checkpoint.unlink(missing_ok=True)
    return _run(config, replace(job, cache=None), progress, watch)


def _run(config: Config, job: Job, progress: Progress, watch: Watch) -> Record:
    actual = job.fidelity.at(config)
    predicted = predict(config)
    rules, protocol = _rules(config, job), PROTOCOLS[job.fidelity.protocol]
    device = device_of(config)
    model, used = _build(actual, job.weights, job.seed, rules)
    in_precision(model, config.precision).to(device)
    splits = load_data(config, replace(job, weights=used.source))
    torch.manual_seed(job.seed)
    step = cast(_Watched, make_step(model, actual, rules, _Watched))
    epochs = job.fidelity.epochs or epochs_of(rules, len(splits.train), config.batch_size)
    check = partial(loader, batch_size=config.micro_batch_size, shuffle=False, seed=0, drop_last=False)
    about: dict[str, Any] = {
        "config": config.to_dict(),
        "key": config.key(len(model.blocks)),  # type: ignore[arg-type]
        "fidelity": asdict(replace(job.fidelity, image_size=actual.image_size, epochs=epochs)),
        "data": job.data,
        "split": splits.description,
        "weights": f"{used.source}: {used.detail}",
        "seed": job.seed,
    }
    train: Part = splits.train
    validation: Part = splits.validation
    prefix = None
    if job.cache is not None:
        prefix = Prefix(
            model,
            _stages(actual),
            job.cache,
            config.precision,
            timm_name(config.model),
            relied=lambda: step.short,
        )
        if prefix.blocks:
            step.model = prefix.model
            at_once = -(-min(len(splits.train), config.batch_size) // config.micro_batches)
            train = prefix.part(
                splits.train,
                at_once,
                batches=False,
                whole=lambda: not step.peak_bytes,
                batch=min(len(splits.train), config.batch_size),
            )
            validation = prefix.part(splits.validation, config.micro_batch_size, batches=True)
    told = False

    def stepped(done: int, total: int, loss: float) -> None:
        nonlocal told
        if step.peak_bytes and not told:
            told = True
            watch.peak(step.peak_bytes, predict(actual).peak_bytes)
        progress(done, total, loss)

    outcome = fit(
        step,
        loader(
            train,
            config.batch_size,
            shuffle=True,
            seed=job.seed,
            drop_last=not rules.partial_batch and len(splits.train) >= config.batch_size,
        ),
        check(validation),
        rules,
        epochs,
        stepped,
        every=rules.evaluate_every if protocol.best else 1 if job.every_epoch else None,
        rungs=job.rungs,
        checkpoint=_checkpoint(job, about, rules),
        evaluated=lambda number, loss, accuracy: watch.epoch(number, epochs, loss, accuracy),
    )
    if prefix is not None:
        prefix.close()
    test = None
    if not (outcome.diverged or outcome.stopped):
        if protocol.judged_on == "test":
            test = outcome.accuracy[-1]
        elif job.test:
            test = evaluate(model, check(splits.test), config.precision)
    if not (outcome.diverged or outcome.stopped):
        watch.trained(model, splits)
    return Record(
        status="diverged" if outcome.diverged else "stopped" if outcome.stopped else "finished",
        reason=outcome.diverged or outcome.stopped or "",
        **about,
        **asdict(splits.contents),
        predicted=predicted.summary(),
        measured=step.account(actual),
        accuracy=protocol.accuracy(outcome.accuracy) if outcome.accuracy and not outcome.diverged else None,
        accuracy_is=protocol.accuracy_is,
        test_accuracy=test,
        history=outcome.accuracy,
        history_epochs=outcome.evaluated,
        losses=outcome.losses,
        seconds=outcome.seconds,
        step_seconds=outcome.step_seconds,
        images_trained=outcome.images,
        provenance={
            **provenance(str(device)),
            "cached_blocks": prefix.blocks if prefix and prefix.used else 0,
        },
    )


def accuracy_on_test(model: nn.Module, config: Config, job: Job) -> float:
    """Top-1 accuracy in [0, 1] on a job's test set, of a model that was trained as the job says.

    Raises:
        UserError: see ``load_data``.
    """
    splits = load_data(config, job)
    batches = loader(splits.test, config.micro_batch_size, shuffle=False, seed=0, drop_last=False)
    return evaluate(model.to(device_of(config)), batches, config.precision)


Part = Dataset[tuple[torch.Tensor, int]]


def _stages(config: Config) -> list[Stage]:
    """What stands below the blocks, and each block, does to an image, as far as its output follows from it (how
    its tensors are stored does not matter), and whether it is frozen."""
    tape = tape_of(config)
    stages = len(tape.blocks) + 1
    above = 1 + max(place for place, op in enumerate(tape) if op.block is not None)
    does: list[list[str]] = [[] for _ in range(stages + 1)]
    gives, made = [""] * (stages + 1), dict[str, int]()
    frozen = [True] * (stages + 1)
    stage = 0
    for place, op in enumerate(tape):
        stage = stages if place >= above else stage if op.block is None else op.block + 1
        if op.kind not in ("cast", "cast_parameter"):  # which follow from the precision, and from what trains
            does[stage].append(f"{op.name} {op.kind} {sorted(op.attrs.items())}")
        if any(name in tape.parameters and tape.parameters[name].trains for name in op.params.values()):
            frozen[stage] = False
        for name in op.reads:
            for passed in range(
                made.get(name, stage), stage
            ):  # goes by what that stage hands on, or beside it
                frozen[passed] &= name == gives[passed]
        made[op.writes], gives[stage] = stage, op.writes
    return [
        Stage("; ".join(does[number]), tape.tensors[gives[number]].shape[1:], frozen[number])
        for number in range(stages)
    ]


def _rules(config: Config, job: Job) -> Recipe:
    """The job's recipe, with the configuration's learning rate if it has one."""
    rules = recipe(job.fidelity.recipe, job.data, config.optimizer)
    return rules if config.lr is None else replace(rules, lr=config.lr, lr_batch=None)


def _checkpoint(job: Job, about: dict[str, Any], rules: Recipe) -> Checkpoint | None:
    """Of everything that training follows from; an equal experiment may have been written otherwise."""
    if job.checkpoint is None:
        return None
    of = {key: value for key, value in about.items() if key != "config"}
    of |= {"recipe": asdict(rules), "torch": torch.__version__}
    return Checkpoint(job.checkpoint, json.dumps(of, sort_keys=True), job.checkpoint_every)


def attempt(config: Config, key: str, job: Job, progress: Progress, watch: Watch = _NOBODY) -> Record:
    """``run``; what goes wrong is a record too, with the reason and the place. Ctrl-C does not go wrong: it waits for
    the end of a step, where nothing makes another error of it.

    Args:
        key: of the configuration; see ``Config.key``.

    Raises:
        UserError: what its user can mend.
    """
    try:
        with interrupt.held():
            return run(config, job, progress, watch)
    except UserError:
        raise
    except Exception as error:
        asked = _asked_for(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
    # The exception is gone, and with it its frames and what they held: there is memory again to write a record.
    if asked is not None:
        gc.collect()
        if config.device == "cuda":
            torch.cuda.empty_cache()
        peak = format_bytes(predict(job.fidelity.at(config)).peak_bytes)
        reason = f"out of memory: {asked} was asked for, and the predicted peak is {peak}; {reason}"
    return Record(
        status="failed" if asked is None else "out_of_memory",
        config=config.to_dict(),
        key=key,
        fidelity=asdict(job.fidelity),
        data=job.data,
        seed=job.seed,
        reason=reason,
        predicted=predict(config).summary(),
        provenance=provenance(config.device),
    )


_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
_ASKED = re.compile(
    r"(?:tried to allocate|unable to allocate)\s+([\d.]+)\s*(bytes|[KMGTP]i?B)?", re.IGNORECASE
)


def _asked_for(error: Exception) -> str | None:
    """What was asked for when there was no memory for it; None if the error is another one."""
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not memory and not (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return None
    said = _ASKED.search(str(error))
    if said is None:
        return "more memory than there is"
    number, unit = said.groups()
    return format_bytes(int(number)) if unit in (None, "bytes") else f"{number} {unit}"


def epochs_of(rules: Recipe, images: int, batch_size: int) -> int:
    """The recipe's epochs, or as many as its steps take."""
    if rules.steps is None:
        return rules.epochs
    return -(-rules.steps // rules.steps_an_epoch(images, batch_size))


class _Watched(Step):
    """A step that measures itself while it trains: what the first one saves, and the peak of a steady one of as many
    images, which updates after another that did (the second, unless a gradient scaler skips some)."""

    images = peak_bytes = 0
    short = False
    saved_bytes: int | None = None
    beside: Mapping[str, int] = MappingProxyType({})
    updated = False

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """See ``Step``."""
        self.images = self.images or len(labels)
        self.short = self.short or images.dim() == 3  # tokens
        if self.updated and not self.peak_bytes and len(labels) == self.images:
            return self._measured(images, labels)
        value = super().__call__(images, labels)
        self.updated = self.updated or not self.skipped
        return value

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See ``Step``."""
        if self.saved_bytes is not None:
            return super().loss(images, labels)
        with saved_storages(self.model, [images, labels]) as saved:
            loss = super().loss(images, labels)
            self.saved_bytes = sum(row.bytes for row in saved.rows())
        return loss

    def _measured(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        value = 0.0

        def step() -> None:
            nonlocal value
            value = super(_Watched, self).__call__(images, labels)

        peak, _, beside = peak_of(self, step, images, labels)
        if math.isfinite(value) and not self.skipped:
            self.peak_bytes, self.beside = peak, beside
        return value

    def state_dict(self) -> dict[str, Any]:
        """See ``Step``; with what was measured."""
        seen = {name: getattr(self, name) for name in _SEEN}
        return {**super().state_dict(), "seen": {**seen, "beside": dict(self.beside)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Step``."""
        super().load_state_dict(state)
        for name, value in state["seen"].items():
            setattr(self, name, value)

    def account(self, actual: Config) -> dict[str, Any] | None:
        """What was measured beside what is predicted for as many images (a small set has no full batch, and
        then no steady step)."""
        if not self.images:
            return None
        first = -(-self.images // self.micro_batches)
        account: dict[str, Any] = {
            "image_size": actual.image_size,
            "batch_size": self.images,
            "saved_bytes": self.saved_bytes,
            "predicted_saved_bytes": predict(replace(actual, batch_size=first, micro_batches=1)).saved_bytes,
        }
        if self.peak_bytes and self.images == actual.batch_size:
            predicted = predict(actual).peak_bytes
            account |= {
                "peak_bytes": self.peak_bytes,
                "predicted_peak_bytes": predicted,
                **self.beside,
            }
            if self.peak_bytes > predicted * (1 + TOLERANCE):
                over = self.peak_bytes / predicted - 1
                account["fault"] = (
                    f"the peak was {over:.1%} above its prediction: the cost model is wrong here"
                )
        return account


_SEEN = ("images", "short", "saved_bytes", "peak_bytes", "beside", "updated")
"""What a step that measures itself has found, and whether it was fed with what frozen blocks made."""
