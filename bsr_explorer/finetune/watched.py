"""A training step that measures itself while it trains."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, SupportsFloat

import torch

from bsr_explorer.config import Config
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.measurement.step import peak_of
from bsr_explorer.methods.moving import InStep
from bsr_explorer.methods.steps import EVERYTHING, Shape
from bsr_explorer.prediction import predict
from bsr_explorer.train.step import Step

TOLERANCE = 0.02
"""By how much a run may exceed its predicted peak before it is recorded as a fault of the cost model."""

PEAKS = 8
"""Shapes of steps of which a training measures the peak, at most, for that takes as long as another step; what is saved
is measured of all."""


def step_of(actual: Config, images: int) -> tuple[Config, Ledger]:
    """A micro-batch of a step of so many images, and what is predicted of it.

    Raises:
        UserError: the method does not go with so many.
    """
    micro_batch = replace(actual, batch_size=-(-images // actual.micro_batches), micro_batches=1)
    return micro_batch, predict(micro_batch)


@dataclass
class Seen:
    """What was measured of steps of one shape.

    Attributes:
        steps: how many there were.
        saved_bytes: of the first of them.
        peak_bytes: of a steady one: 0 if there was none.
        beside: what is measured beside the peak (see ``Ledger``).
        new: names of parameters of which the optimiser had no state yet, for they had not trained.
    """

    steps: int = 0
    saved_bytes: int | None = None
    peak_bytes: int = 0
    beside: dict[str, int] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)


class WatchedStep(Step):
    """A step that measures itself while it trains: of each shape that its steps have (one, if they are all alike) what
    the first one saves, and the peak of a steady one of as many images, which updates after another that did (the
    second, unless a gradient scaler skips some)."""

    images = 0
    short = False
    updated = False
    earlier: tuple[dict[str, Any], ...] = ()

    @property
    def seen(self) -> dict[Shape, Seen]:
        """What was measured, by the shape of the step."""
        found: dict[Shape, Seen] = self.__dict__.setdefault("_seen", {})
        return found

    @property
    def peak_bytes(self) -> int:
        """The largest peak that was measured; 0 if none was."""
        return max((seen.peak_bytes for seen in self.seen.values()), default=0)

    @property
    def shape(self) -> Shape:
        """Of the step at hand."""
        now = getattr(self.model, "turned", None)
        return EVERYTHING if now is None else now.shape

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        """See ``Step``."""
        self.images = self.images or len(labels)
        self.short = self.short or images.dim() == 3  # tokens
        now = self.seen.setdefault(self.shape, Seen())
        now.steps += len(labels) == self.images
        if self.updated and not now.peak_bytes and len(labels) == self.images and self._may_measure():
            return self._measured(now, images, labels)
        value = super().update(images, labels)
        self.updated = self.updated or not self.skipped
        return value

    def _may_measure(self) -> bool:
        """Whether a step of this shape is a steady one, and not too many others have been measured."""
        there = sum(bool(seen.peak_bytes) for seen in self.seen.values()) < PEAKS
        return there and (
            self.shape == EVERYTHING or not any(self._is_new(p) for p in self.trained if p.requires_grad)
        )

    def _is_new(self, p: torch.nn.Parameter) -> bool:
        """Whether the optimiser would keep state of a parameter, and has none yet."""
        return any(self.optimizer.state.values()) and not self.optimizer.state.get(p)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See ``Step``."""
        now = self.seen.setdefault(self.shape, Seen())
        if now.saved_bytes is not None:
            return super().loss(images, labels)
        with saved_storages(self.model, [images, labels]) as saved:
            loss = super().loss(images, labels)
            now.saved_bytes = sum(row.bytes for row in saved.rows())
        return loss

    def _measured(self, now: Seen, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        value: SupportsFloat = 0.0

        def step() -> None:
            nonlocal value
            value = super(WatchedStep, self).update(images, labels)

        named = {p: name for name, p in self.model.named_parameters()}
        new = [named[p] for p in self.trained if not p.requires_grad and self._is_new(p)]
        peak, _, beside = peak_of(self, step, images, labels)
        if math.isfinite(float(value)) and not self.skipped:
            now.peak_bytes, now.beside, now.new = peak, beside, new
        return value

    def state_dict(self) -> dict[str, Any]:
        """See ``Step``; with what was measured."""
        shapes = [{"shape": asdict(shape), "seen": asdict(seen)} for shape, seen in self.seen.items()]
        return {
            **super().state_dict(),
            "seen": {name: getattr(self, name) for name in _SEEN},
            "shapes": shapes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Step``."""
        super().load_state_dict(state)
        for name in _SEEN:
            setattr(self, name, state["seen"][name])
        for each in state.get("shapes", []):  # checkpoints of before have none, and are measured anew
            self.seen[Shape(**each["shape"])] = Seen(**each["seen"])

    def note(self, actual: Config) -> None:
        """A phase of training is over: keep what was measured of it, and measure anew."""
        account = self.account(actual)
        self.earlier += () if account is None else (account,)
        self.images, self.updated = 0, False
        self.seen.clear()

    def fullest(self, actual: Config) -> dict[str, Any] | None:
        """The account of the phase whose steps held most."""
        last = self.account(actual)
        accounts = [*self.earlier, *([] if last is None else [last])]
        return max(accounts, key=lambda account: account.get("peak_bytes", 0), default=None)

    def account(self, actual: Config) -> dict[str, Any] | None:
        """What was measured beside what is predicted for as many images (a small set has no full batch, and then no
        steady step); of several shapes that of the fullest, and how many were off."""
        if not self.images:
            return None
        shapes = [
            _of_shape(seen, self._as(actual, shape), self.images)
            for shape, seen in self.seen.items()
            if seen.steps
        ]
        account = max(shapes, key=lambda each: (each.get("peak_bytes", 0), each["saved_bytes"] or 0))
        account = {"image_size": actual.image_size, "batch_size": self.images, **account}
        if actual.how.moves:
            account["steps"] = _of_all(shapes, [seen.steps for seen in self.seen.values() if seen.steps])
        if account.get("peak_bytes", 0) > account.get("predicted_peak_bytes", 0) * (1 + TOLERANCE):
            over = account["peak_bytes"] / account["predicted_peak_bytes"] - 1
            account["fault"] = f"the peak was {over:.1%} above its prediction: the cost model is wrong here"
        return account

    def _as(self, actual: Config, shape: Shape) -> Config:
        """A configuration whose steps are all of a shape."""
        moves = getattr(self.model, "turned", None) is not None
        return actual.with_method(InStep(actual.how, shape)) if moves else actual


def _of_shape(seen: Seen, actual: Config, images: int) -> dict[str, Any]:
    """What was measured of steps of a shape, and what is predicted."""
    micro_batch, saving = step_of(actual, images)
    found: dict[str, Any] = {
        "saved_bytes": seen.saved_bytes,
        "predicted_saved_bytes": saving.saved_bytes,
        "predicted_train_flops": saving.train_flops * actual.micro_batches,
    }
    if seen.peak_bytes and images == actual.batch_size:
        predicted = saving if micro_batch == actual else predict(actual)
        missing = sum(row.bytes for row in predicted if row.kind == "optimizer" and row.operation in seen.new)
        found |= {
            "peak_bytes": seen.peak_bytes,
            "predicted_peak_bytes": predicted.peak_bytes - missing,
            **seen.beside,
        }
    return found


def _of_all(shapes: list[dict[str, Any]], counts: list[int]) -> dict[str, Any]:
    """How many shapes there were, how many of which were not as predicted, and the mean over all steps."""

    def off(kind: str) -> int:
        return sum(
            each[f"{kind}_bytes"] != each[f"predicted_{kind}_bytes"]
            for each in shapes
            if f"{kind}_bytes" in each
        )

    def mean(key: str) -> int:
        total: int = sum(each[key] * count for each, count in zip(shapes, counts, strict=True))
        return round(total / sum(counts))

    saved = [each["saved_bytes"] for each in shapes]
    return {
        "shapes": len(shapes),
        "saved_off": off("saved"),
        "peaks": sum("peak_bytes" in each for each in shapes),
        "peaks_off": off("peak"),
        "saved_bytes": {"least": min(saved), "mean": mean("saved_bytes"), "most": max(saved)},
        "train_flops": mean("predicted_train_flops"),
    }


_SEEN = ("images", "short", "updated", "earlier")
"""What a step that measures itself has found beside its shapes, and whether it was fed with what frozen blocks made."""
