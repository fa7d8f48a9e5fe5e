"""A configuration: one point of the design space, checked, with a canonical form and a hash."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from bsr_explorer.cost.optimizers import IMPLEMENTATIONS, OPTIMIZERS
from bsr_explorer.cost.setup import Setup
from bsr_explorer.devices import DEVICES, attention_paths, device_of, gpu_of
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.names import timm_name
from bsr_explorer.quality import ACCURACY, Quality

COUNTS_FLAG = "--budget-counts"
"""What most commands call the choice of what a budget counts."""

QUANTILES = ("peak", "saved")
"""What a budget may count of a share of the steps: what each step holds itself. (What an allocator has taken stays
taken.)"""

CHOICES: dict[str, Collection[str]] = {
    "precision": tuple(PRECISIONS),
    "optimizer": tuple(OPTIMIZERS),
    "implementation": IMPLEMENTATIONS,
    "attention": attention_paths(),
    "device": DEVICES.keys(),
    "unknown": ("refuse", "bound"),
}
"""What may stand under each key that names one of a few things."""


@dataclass(frozen=True)
class Config:
    """One point of the design space.

    Attributes:
        model: an alias (``deit_s``) or the timm name of a vision transformer.
        image_size: side of the square images, pixels; of a language model, tokens of a sequence.
        num_classes: outputs of the head. (A language model has its vocabulary.)
        batch_size: images, or sequences, an optimiser step, B.
        precision: ``fp32``; ``amp_bf16`` or ``amp_fp16`` (autocast; fp16 with a gradient scaler); ``bf16``
            (weights, images and optimiser state too).
        optimizer: ``adamw``, ``adamw_8bit``, ``sgd`` (no momentum) or ``sgd_momentum``.
        attention: ``fused`` (the kernel that torch picks), ``math`` (explicit softmax), or on CUDA a kernel
            by name: ``flash``, ``efficient``, ``cudnn``.
        method: a method, or the expression that says it.
        implementation: how torch runs the optimiser: ``loop``, ``foreach``, ``fused``, or ``auto``, which is
            foreach on CUDA and loop on the CPU.
        micro_batches: parts in which a step's images pass forward and backward, their gradients added up.
        set_to_none: whether gradients are given back after a step (or stay, as zeros).
        device: where the step runs, for memory differs: ``cpu``, ``cuda``, or a device that was registered.
        gpu: the card that ``device`` is, where it is ``cuda``: see ``devices.gpu_of``; None: the one that is predicted
            for where none is named.
        lr: learning rate at the peak of the schedule, or None: the recipe's own.
        tasks: classes of each task, where the head is that of several tasks side by side (``num_classes`` is their
            sum); nothing: the model has one task.
        unknown: what becomes of a prediction where a traced model calls something that cannot be counted: ``refuse``
            names it; with ``bound``, the prediction is a bound (``Ledger.at_least``).
    """

    model: str = "deit_s"
    image_size: int = 224
    num_classes: int = 10
    batch_size: int = 32
    precision: str = "fp32"
    optimizer: str = "adamw"
    attention: str = "fused"
    method: Method | str = "bsr"
    implementation: str = "auto"
    micro_batches: int = 1
    set_to_none: bool = True
    device: str = "cpu"
    lr: float | None = None
    gpu: str | None = None
    unknown: str = "refuse"
    tasks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for key, kinds in (("model", str), ("method", (str, Method))):
            if not isinstance(getattr(self, key), kinds):
                raise UserError(f"{_flag(key)}: {getattr(self, key)!r} must be text")
        if isinstance(self.method, str):
            object.__setattr__(self, "method", parse_method(self.method))
        for key in ("image_size", "num_classes", "micro_batches", "batch_size"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{_flag(key)}: {value!r} must be a whole number of at least 1")
        self._check_tasks()
        if not isinstance(self.set_to_none, bool):
            raise UserError(f"--set-to-none: {self.set_to_none!r} must be true or false")
        if self.lr is not None:
            if isinstance(self.lr, bool) or not isinstance(self.lr, (int, float)) or not 0 < self.lr < inf:
                raise UserError(f"--lr: {self.lr!r} must be a positive, finite number")
            object.__setattr__(self, "lr", float(self.lr))  # 1 and 1.0 are one experiment
        for key, allowed in {**CHOICES, "attention": attention_paths()}.items():
            if getattr(self, key) not in allowed:
                raise unknown(_flag(key), getattr(self, key), allowed)
        self._check_together()

    def _check_tasks(self) -> None:
        """Refuse tasks that cannot be, or that have other classes than the head."""
        tasks = self.tasks
        if not isinstance(tasks, (tuple, list)) or any(
            isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in tasks
        ):
            raise UserError(
                f"--tasks: {tasks!r} must be the classes of each task, at least 2, such as 10,10,5"
            )
        object.__setattr__(self, "tasks", tuple(tasks))
        if len(tasks) == 1:
            raise UserError(
                f"--tasks: {tasks[0]} is one task; leave it out, and give --num-classes {tasks[0]}"
            )
        if tasks and sum(tasks) != self.num_classes:
            raise UserError(
                f"--num-classes: {self.num_classes} is not the sum of --tasks {','.join(map(str, tasks))}, which is "
                f"{sum(tasks)}; leave it out"
            )

    def _check_together(self) -> None:
        """Refuse values that do not go with each other."""
        if self.batch_size % self.micro_batches:
            raise UserError(
                f"--micro-batches: {self.batch_size} images do not fall into {self.micro_batches} equal parts; "
                "choose a divisor of --batch-size"
            )
        for part in parts_of(self.how):
            part.check_step(self.optimizer, self.precision, self.micro_batches)
        if (self.precision, self.optimizer, self.implementation) == ("amp_fp16", "sgd_momentum", "fused"):
            raise UserError(
                "--implementation: torch's fused SGD leaves its momentum unset where the first fp16 step is "
                "skipped; choose loop or foreach, or --precision amp_bf16"
            )
        if self.gpu is not None and self.device != "cuda":
            raise UserError(f"--gpu: {self.gpu} is a card for --device cuda, and the device is {self.device}")
        if self.gpu is not None:
            gpu_of(self.gpu)
        if refused := device_of(self.place).caching.refused:
            raise UserError(refused)
        paths = DEVICES[self.device].attention
        if self.attention not in paths:
            there = [device for device in DEVICES.values() if self.attention in device.attention]
            raise UserError(
                f"--attention: the kernel {self.attention!r} exists on {' and '.join(d.title for d in there)} only; "
                f"choose {' or '.join(paths)}, or --device {there[0].name}"
            )
        if self.attention in ("flash", "cudnn"):
            card = device_of(self.place).gpu
            if self.precision == "fp32" or (card is not None and card.capability < (8, 0)):
                raise UserError(
                    f"--attention: {self.attention} runs in 16 bits and from compute capability 8.0 on; choose "
                    "efficient, math or fused, or another --precision or --gpu"
                )

    @property
    def micro_batch_size(self) -> int:
        """Images that pass forward and backward at once."""
        return self.batch_size // self.micro_batches

    @property
    def setup(self) -> Setup:
        """How the step is run, beside what its tape says."""
        return Setup(
            optimizer=self.optimizer,
            implementation=self.implementation,
            device=self.place,
            micro_batches=self.micro_batches,
            set_to_none=self.set_to_none,
            scaler=self.precision == "amp_fp16",
        )

    @property
    def place(self) -> str:
        """The device and its card, as ``devices.device_of`` takes them."""
        return f"{self.device}/{self.gpu}" if self.gpu else self.device

    @property
    def caches(self) -> bool:
        """Whether the device's allocator keeps what it has taken, so that more is reserved than in use."""
        return device_of(self.place).caches

    def check_counts(self, counts: str, flag: str = COUNTS_FLAG) -> None:
        """Refuse a budget that counts what the device does not have.

        Args:
            flag: by which it was chosen.

        Raises:
            UserError: it counts what a GPU reserves or holds, and the device is none.
        """
        if counts in ONLY_GPUS and not self.caches:
            raise UserError(
                f"{flag}: {counts} is {ONLY_GPUS[counts]}, and the device is "
                f"{self.place}; choose peak, saved or published, or --device cuda"
            )

    @property
    def counts_by_default(self) -> str:
        """What a budget counts if nothing is said: what runs out, on a GPU what is reserved."""
        return "reserved" if self.caches else "peak"

    @property
    def how(self) -> Method:
        """The method, as a method."""
        assert isinstance(self.method, Method)
        return self.method

    def with_classes(self, tasks: Sequence[int]) -> Config:
        """The same point with another head: of one task of so many classes, or of several."""
        return replace(self, num_classes=sum(tasks), tasks=tuple(tasks) if len(tasks) > 1 else ())

    def with_method(self, method: Method | str) -> Config:
        """The same point with another method."""
        return replace(self, method=method)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the method as its expression, and no ``lr``, ``gpu``, ``unknown`` or ``tasks`` that is the
        default; ``from_dict`` reads them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for key, default in (("lr", None), ("gpu", None), ("unknown", "refuse"), ("tasks", ())):
            if values[key] == default:  # so that keys are those of before there was one
                del values[key]
        if self.tasks:
            values["tasks"] = list(self.tasks)
        return {**values, "method": str(self.method)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """A configuration of plain values.

        Raises:
            UserError: a key that does not exist, or a value that is not allowed.
        """
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                raise unknown("configuration key", key, names)
        return cls(**values)

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """A configuration file: the fields as top-level keys."""
        try:
            return cls.from_dict(tomllib.loads(path.read_text()))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path}: not valid TOML: {error}") from None

    def canonical(self, depth: int) -> Config:
        """The simplest configuration that is the same experiment, in a model of ``depth`` blocks."""
        return replace(self, model=timm_name(self.model), method=self.how.canonical(depth))

    def key(self, depth: int) -> str:
        """16 hexadecimal digits that are equal for equal experiments, in any process."""
        experiment = replace(
            self.canonical(depth), unknown="refuse"
        )  # how it is predicted changes no experiment
        text = json.dumps(experiment.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


ONLY_GPUS = {
    "reserved": "what torch's allocator takes from a GPU",
    "device": "what a process takes from a GPU",
}
"""What a budget may count of GPUs alone."""


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


@dataclass(frozen=True)
class Protocol:
    """How an accuracy, or another quality, comes about.

    Attributes:
        summary: what it is, in words.
        judged_on: the part of the data that a training is judged by on its way, and at its end.
        best: whether its accuracy is the best of all evaluations, and not the last one's.
        mark: what stands beside each number of it, for it is not to be taken for one of the usual protocol; the usual
            one has none.
    """

    name: str
    summary: str
    judged_on: str
    best: bool = False
    mark: str = ""

    @property
    def accuracy_is(self) -> str:
        """What is said as the accuracy, in words."""
        return self.says(ACCURACY)

    def says(self, quality: Quality) -> str:
        """What is said as a quality, in words."""
        which = "the best of all evaluations" if self.best else "after the last epoch"
        return f"{quality.brief} on {self.judged_on}, {which}" + (
            f" (protocol {self.name})" if self.mark else ""
        )

    def summarised(self, quality: Quality) -> str:
        """The summary, of what a quality is counted on."""
        return self.summary.replace("images", f"{quality.judges}s")

    def axis(self, quality: Quality = ACCURACY) -> str:
        """What is said of a quality along an axis."""
        return f"{quality.column},\n{self.mark}" if self.mark else f"{self.judged_on} {quality.column}"

    def column(self, name: str = ACCURACY.column) -> str:
        """The head of a column of accuracies, or of another quality."""
        return f"{name}, {self.mark}" if self.mark else name

    def score(self, evaluations: Sequence[float]) -> float:
        """The score of a training, of those on its way, in order."""
        return max(evaluations) if self.best else evaluations[-1]


HELD_OUT = Protocol(
    "held-out",
    "images held out of training judge it, after its last epoch; the test set is looked at once, at the end, if at all",
    "validation",
)

AUTHORS = Protocol(
    "authors",
    "for reproduction alone, as the BSR authors' code does it: all training images, and the best of all evaluations on "
    "the test set, which flatters",
    "test",
    best=True,
    mark="best on test, authors' protocol",
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (HELD_OUT, AUTHORS)}


@dataclass(frozen=True)
class Fidelity:
    """How thoroughly a configuration is fine-tuned to judge its accuracy.

    Attributes:
        image_size: side of the training images, pixels; a *proxy* where it is smaller than the
            configuration's, at which memory and FLOPs are always counted. None: the configuration's own.
        train_size: training images, a stratified subset; None: all.
        val_size: validation images; None: all.
        epochs: passes over the training images; None: the recipe's.
        recipe: name of a preset in ``train.recipes``.
        views: fixed augmented views of each training image, which the epochs take in turn; None: a new one
            every epoch. (Without augmentation there is one.)
        skip: image files that are left out, by their path below the folder of the data; None: none are.
        protocol: key of ``PROTOCOLS``: which images are trained on, and which accuracy is said.
    """

    image_size: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    epochs: int | None = None
    recipe: str = "short"
    views: int | None = None
    skip: tuple[str, ...] | None = None
    protocol: str = HELD_OUT.name

    def __post_init__(self) -> None:
        if self.skip is not None:
            object.__setattr__(self, "skip", tuple(self.skip) or None)
        if self.protocol not in PROTOCOLS:
            raise unknown("--protocol", self.protocol, PROTOCOLS)
        for key in ("image_size", "train_size", "val_size", "epochs", "views"):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                flag = "--proxy-size" if key == "image_size" else _flag(key)
                raise UserError(f"{flag}: {value!r} must be a whole number of at least 1")

    @property
    def brief(self) -> str:
        """How many images of which size, in words."""
        return self.said(ACCURACY)

    def said(self, quality: Quality) -> str:
        """How many images, or sequences, of which size, in words."""
        count = "all" if self.train_size is None else f"{self.train_size:,}"
        return f"{count} {quality.judges}s" + (
            f" at {quality.size(self.image_size)}" if self.image_size else ""
        )

    def at(self, config: Config) -> Config:
        """The configuration as it is really trained: at the proxy image size, if there is one."""
        return config if self.image_size is None else replace(config, image_size=self.image_size)
