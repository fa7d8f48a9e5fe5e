"""One plain training loop. It knows parameters that train, and no method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean, median
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from bsr_explorer import interrupt
from bsr_explorer.models.outputs import logits_of
from bsr_explorer.models.tasks import bounds_of, right_of, tasks_of
from bsr_explorer.quality import ACCURACY, PERPLEXITY, Quality
from bsr_explorer.train.batches import Batch, on_device, without
from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.losses import KEPT
from bsr_explorer.train.optimizer import rate_factor
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, autocast, image_dtype


@runtime_checkable
class Turning(Protocol):
    """A data set that is not the same in every epoch."""

    def turn_to(self, epoch: int) -> None:
        """Be as it is in an epoch (0-based)."""


@dataclass
class Outcome:
    """What a fine-tune came to.

    Attributes:
        scores: on validation, in [0, 1] (see ``quality``), the last one of the model as it is in the end;
            of several tasks, their mean.
        evaluated: after how many epochs each.
        by_task: of each, the accuracies of the tasks, of which it is the mean (one, if there is one task).
        losses: mean training loss of each epoch.
        running: loss of each step of the epoch that is under way.
        steps, images: what was trained.
        seconds: wall clock, evaluation and checkpoints included.
        durations: seconds of each step; of those whose losses are read together, their mean.
        diverged: why training could not go on, or None.
        stopped: why it was not to go on, or None.
    """

    scores: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    by_task: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    durations: list[float] = field(default_factory=list)
    diverged: str | None = None
    stopped: str | None = None

    @property
    def step_seconds(self) -> float:
        """Median of one training step."""
        return median(self.durations) if self.durations else 0.0


def fit(
    step: Step,
    train: DataLoader[Batch],
    validation: DataLoader[Batch],
    recipe: Recipe,
    epochs: int,
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None,
    every: int | None = None,
    rungs: Mapping[int, float] | None = None,
    checkpoint: Checkpoint | None = None,
    evaluated: Callable[[int, float, float], None] = lambda epoch, loss, score: None,
    quality: Quality = ACCURACY,
) -> Outcome:
    """Repeat a step over the training images.

    Args:
        step: what is repeated.
        train: batches of (images (B, 3, S, S), labels (B,)), in an order of a generator of its own.
        recipe: schedule of the learning rate, and length.
        epochs: passes over ``train``; ``recipe.steps``, if given, ends training earlier.
        progress: called after every step with steps done, steps in all and the loss.
        every: steps after which to evaluate, when the epoch that they end in is over (1: after each epoch); None: at
            the end alone.
        rungs: the least score in [0, 1] with which training goes on after so many epochs; they are evaluated
            whatever the value. What trains to the end is not stopped there.
        checkpoint: kept after each epoch but the last, and within it as often as it says. If there is one, training
            goes on from it, to the same outcome as without the interruption, to the last bit (but for the seconds; on
            a GPU as far as its kernels give the same twice). Of random generators, torch's are kept: none else is
            drawn from. Images that were trained on already are not loaded again.
        evaluated: called after each evaluation with the epochs done, the last one's mean loss, and the score.
        quality: what the model is judged by.
    """
    total = max(1, min(epochs * len(train), recipe.steps or epochs * len(train)))
    step.total = total
    rungs = rungs or {}
    outcome = _resumed(checkpoint, step, train)
    outcome.stopped = _below(outcome, rungs, epochs, quality)
    if not outcome.steps:
        _look(step, train)
    began = time.perf_counter() - outcome.seconds
    kept = time.monotonic()

    def keep(order: torch.Tensor | None) -> None:
        """Write the checkpoint."""
        nonlocal kept
        if checkpoint is not None:
            outcome.seconds = time.perf_counter() - began
            checkpoint.save(_state(outcome, step, order))
            kept = time.monotonic()

    def between(order: torch.Tensor | None) -> None:
        """The same between two steps, if the last one is long ago."""
        if checkpoint is not None and time.monotonic() - kept >= checkpoint.every:
            keep(order)

    while outcome.steps < total and not (outcome.diverged or outcome.stopped):
        before = outcome.steps - len(outcome.running)
        _epoch(step, train, recipe, total, outcome, progress, between)
        over, finished = outcome.steps == total, len(outcome.losses)
        due = every is not None and outcome.steps // every > before // every
        if outcome.diverged is None and (due or over or finished in rungs):
            by_task = scores(step.model, validation, step.precision, quality)
            score = fmean(by_task)
            if math.isnan(score):
                outcome.diverged = f"the outputs were not finite after step {outcome.steps} of {total}"
            else:
                outcome.scores.append(score)
                outcome.by_task.append(list(by_task))
                outcome.evaluated.append(finished)
                evaluated(finished, outcome.losses[-1], score)
        outcome.seconds = time.perf_counter() - began
        if outcome.diverged is None and not over:
            keep(_order(train))
            outcome.stopped = _below(outcome, rungs, epochs, quality)
    return outcome


def _look(step: Step, train: DataLoader[Batch]) -> None:
    """Let what changes the model look at the first batches before anything trains. Nothing else follows from it: the
    first epoch begins with the same ones."""
    looks = 0 if step.changes is None else step.changes.looks
    if step.changes is None or not looks:
        return
    step.model.train()
    if isinstance(train.dataset, Turning):
        train.dataset.turn_to(0)
    order = _order(train)

    def first() -> Iterator[Batch]:
        """The first batches."""
        yield from islice(on_device(step.device, train, image_dtype(step.precision)), looks)
        if order is not None:
            train.generator.set_state(order)

    with torch.random.fork_rng([step.device] if step.device.type == "cuda" else []):
        step.changes.begin(step, first)


def _epoch(
    step: Step,
    train: DataLoader[Batch],
    recipe: Recipe,
    total: int,
    outcome: Outcome,
    progress: Callable[[int, int, float], None],
    between: Callable[[torch.Tensor | None], None],
) -> None:
    """One pass over the training images, or as much of it as there are steps left, from where it was left.

    ``between`` is called between two steps, with what the order of the epoch follows from.
    """
    step.model.train()
    if isinstance(train.dataset, Turning):
        train.dataset.turn_to(len(outcome.losses))
    order, done = _order(train), len(outcome.running)
    unread = _Unread(outcome, total, progress)
    for images, labels in on_device(step.device, without(train, done), image_dtype(step.precision)):
        began = time.perf_counter()
        step.rate = rate_factor(outcome.steps + len(unread.losses), total, recipe)
        unread.add(step(images, labels), len(labels), began)
        last = outcome.steps + len(unread.losses) == total
        if step.later and len(unread.losses) < TOGETHER and not last:
            continue
        unread.read()
        if last or outcome.diverged:
            break
        if len(outcome.running) < len(train):
            between(order)
    unread.read()
    if outcome.running:
        outcome.losses.append(sum(outcome.running) / len(outcome.running))
        outcome.running = []


TOGETHER = 32
"""Steps whose losses are read together, where they are read later."""
assert TOGETHER <= KEPT


class _Unread:
    """Steps whose losses have not been read, and what they took."""

    def __init__(self, outcome: Outcome, total: int, progress: Callable[[int, int, float], None]) -> None:
        self.outcome, self.total, self.progress = outcome, total, progress
        self.losses: list[SupportsFloat] = []
        self.images: list[int] = []
        self.seconds = 0.0

    def add(self, loss: SupportsFloat, images: int, began: float) -> None:
        """A step of so many images is launched, or done."""
        self.losses.append(loss)
        self.images.append(images)
        self.seconds += time.perf_counter() - began

    def read(self) -> None:
        """Note them in the outcome: up to the first that is not finite, if one is not."""
        began = time.perf_counter()
        values = [float(loss) for loss in self.losses]
        each = (self.seconds + time.perf_counter() - began) / max(1, len(values))
        for value, images in zip(values, self.images, strict=True):
            if not math.isfinite(value):
                self.outcome.diverged = (
                    f"the loss was {value} at step {self.outcome.steps + 1} of {self.total}"
                )
                break
            self.outcome.durations.append(each)
            self.outcome.running.append(value)
            self.outcome.steps += 1
            self.outcome.images += images
            self.progress(self.outcome.steps, self.total, value)
        self.losses, self.images, self.seconds = [], [], 0.0


def _order(train: DataLoader[Batch]) -> torch.Tensor | None:
    """What the order of the next pass follows from."""
    return train.generator.get_state() if train.generator is not None else None


def _below(outcome: Outcome, rungs: Mapping[int, float], epochs: int, quality: Quality) -> str | None:
    """Why training is not to go on from where it is, if it is not."""
    finished = len(outcome.losses)
    if finished not in rungs or finished not in outcome.evaluated:
        return None
    score, least = outcome.scores[outcome.evaluated.index(finished)], rungs[finished]
    if score >= least:
        return None
    digits = quality.decimals + 1
    asked = "no more was asked for" if least > 1 else f"{quality.text(least, decimals=digits)} was asked for"
    reached = quality.text(score, decimals=digits)
    return f"stopped after epoch {finished} of {epochs}: the {quality.name} was {reached}, and {asked}"


def _state(outcome: Outcome, step: Step, order: torch.Tensor | None) -> dict[str, Any]:
    """All that the rest of training follows from, beside what is made again from weights and seed."""
    cuda = step.device.type == "cuda"
    return {
        "outcome": asdict(outcome),
        "step": step.state_dict(),
        "order": order,
        "random": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(step.device) if cuda else None,
    }


def _resumed(checkpoint: Checkpoint | None, step: Step, train: DataLoader[Batch]) -> Outcome:
    """Where training was left, if it was; nothing of what was loaded stays behind."""
    state = None if checkpoint is None else checkpoint.load()
    if state is None:
        return Outcome()
    step.load_state_dict(state["step"])
    if state["order"] is not None:
        train.generator.set_state(state["order"])
    torch.set_rng_state(state["random"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], step.device)
    kept = state["outcome"]
    if "accuracy" in kept:  # checkpoints of before there were other qualities
        kept["scores"] = kept.pop("accuracy")
    kept.setdefault("by_task", [[score] for score in kept["scores"]])
    return Outcome(**kept)


def evaluate(
    model: nn.Module, loader: DataLoader[Batch], precision: str = "fp32", quality: Quality = ACCURACY
) -> float:
    """A model's score in [0, 1] by a quality, of several tasks their mean; not a number if an output is not finite.

    Args:
        loader: batches of what the model is given, and labels: (B,) of images, (B, S, S) of pixels, (B, T) of tokens.
    """
    return fmean(scores(model, loader, precision, quality))


@torch.no_grad()
def scores(
    model: nn.Module, loader: DataLoader[Batch], precision: str = "fp32", quality: Quality = ACCURACY
) -> tuple[float, ...]:
    """The score of each task, counted among its own classes (one, if the model has one task); see ``evaluate``."""
    model.eval()
    device = next(model.parameters()).device
    finite = torch.ones((), dtype=torch.bool, device=device)
    tasks = tasks_of(model)
    right, total = torch.zeros((2, max(1, len(tasks))), dtype=torch.int64, device=device)
    nats = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in on_device(device, loader, image_dtype(precision)):
        interrupt.check()
        with autocast(precision, device):
            logits = logits_of(model(images))
        finite &= logits.isfinite().all()  # nothing is read before the end: that would wait for each batch
        if tasks:
            hits = right_of(tasks, logits, labels)
            for task, (first, end) in enumerate(bounds_of(tasks)):
                own = (labels >= first) & (labels < end)
                right[task] += (hits & own).sum()
                total[task] += own.sum()
            continue
        if quality is PERPLEXITY:
            nats += F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
        else:
            right += (logits.argmax(dim=1) == labels).sum()
        total += labels.numel()
    if not finite:
        return (math.nan,) * len(right)
    if quality is PERPLEXITY:
        return (math.exp(-float(nats) / int(total)),)
    return tuple(hit / of if of else math.nan for hit, of in zip(right.tolist(), total.tolist(), strict=True))
