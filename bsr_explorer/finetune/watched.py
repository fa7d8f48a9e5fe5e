"""A training step that measures itself while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, SupportsFloat

import torch

from bsr_explorer.config import Config
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.measurement.step import peak_of
from bsr_explorer.prediction import predict
from bsr_explorer.train.step import Step

TOLERANCE = 0.02
"""By how much a run may exceed its predicted peak before it is recorded as a fault of the cost model."""


def step_of(actual: Config, images: int) -> tuple[Config, Ledger]:
    """A micro-batch of a step of so many images, and what is predicted of it.

    Raises:
        UserError: the method does not go with so many.
    """
    micro_batch = replace(actual, batch_size=-(-images // actual.micro_batches), micro_batches=1)
    return micro_batch, predict(micro_batch)


class WatchedStep(Step):
    """A step that measures itself while it trains: what the first one saves, and the peak of a steady one of as many
    images, which updates after another that did (the second, unless a gradient scaler skips some)."""

    images = peak_bytes = 0
    short = False
    saved_bytes: int | None = None
    beside: Mapping[str, int] = MappingProxyType({})
    updated = False
    earlier: tuple[dict[str, Any], ...] = ()

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        """See ``Step``."""
        self.images = self.images or len(labels)
        self.short = self.short or images.dim() == 3  # tokens
        if self.updated and not self.peak_bytes and len(labels) == self.images:
            return self._measured(images, labels)
        value = super().update(images, labels)
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

    def _measured(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        value: SupportsFloat = 0.0

        def step() -> None:
            nonlocal value
            value = super(WatchedStep, self).update(images, labels)

        peak, _, beside = peak_of(self, step, images, labels)
        if math.isfinite(float(value)) and not self.skipped:
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

    def note(self, actual: Config) -> None:
        """A phase of training is over: keep what was measured of it, and measure anew."""
        account = self.account(actual)
        self.earlier += () if account is None else (account,)
        self.images = self.peak_bytes = 0
        self.saved_bytes, self.beside, self.updated = None, MappingProxyType({}), False

    def fullest(self, actual: Config) -> dict[str, Any] | None:
        """The account of the phase whose steps held most."""
        last = self.account(actual)
        accounts = [*self.earlier, *([] if last is None else [last])]
        return max(accounts, key=lambda account: account.get("peak_bytes", 0), default=None)

    def account(self, actual: Config) -> dict[str, Any] | None:
        """What was measured beside what is predicted for as many images (a small set has no full batch, and
        then no steady step)."""
        if not self.images:
            return None
        micro_batch, saving = step_of(actual, self.images)
        account: dict[str, Any] = {
            "image_size": actual.image_size,
            "batch_size": self.images,
            "saved_bytes": self.saved_bytes,
            "predicted_saved_bytes": saving.saved_bytes,
        }
        if self.peak_bytes and self.images == actual.batch_size:
            predicted = (saving if micro_batch == actual else predict(actual)).peak_bytes
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


_SEEN = ("images", "short", "saved_bytes", "peak_bytes", "beside", "updated", "earlier")
"""What a step that measures itself has found, and whether it was fed with what frozen blocks made."""
