"""One optimiser step: forward, loss and backward of each micro-batch, then the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol, SupportsFloat, cast

import torch
from torch import nn

from bsr_explorer import interrupt
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.outputs import logits_of
from bsr_explorer.models.tasks import loss_of
from bsr_explorer.train.losses import Losses, mean_of
from bsr_explorer.train.optimizer import set_rates
from bsr_explorer.units import TORCH

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, theirs) for name, theirs in TORCH.items()}


class Changes(Protocol):
    """Changes a model, or what of it trains, between steps."""

    @property
    def looks(self) -> int:
        """Batches that it looks at before the first step."""
        ...

    def begin(self, step: Step, batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        """Called once before the first step, where it looks at any, with what gives that many batches, each time the
        same."""
        ...

    def before(self, step: Step) -> None:
        """Called before each step; it may give the step another model and optimiser."""
        ...

    def state_dict(self, step: Step) -> dict[str, Any]:
        """What it remembers from step to step."""
        ...

    def load_state_dict(self, step: Step, state: dict[str, Any]) -> None:
        """Go on with it."""
        ...


class Step:
    """What a training loop repeats, and what a measurement measures.

    Attributes:
        model, optimizer: what is trained, by what.
        precision: key of ``models.lowering.PRECISIONS``; ``in_precision`` must have prepared the model.
        micro_batches: parts in which the images pass forward and backward (fewer, if there are fewer
            images); gradients add up to those of the whole batch.
        set_to_none: whether gradients are given back after the update, or zeroed and kept.
        clip: largest norm of the gradient, or None.
        label_smoothing: of the cross entropy.
        skipped: whether the last update was left out, because scaled gradients overflowed (fp16).
        done, total: steps of a training that are done, and all of them (0 where it is not known).
        rate: the learning rates over their peaks, or None: as they are.
        changes: what changes the model as it trains, or None.
        later: whether losses are read when they are asked for, and not in the step, which would then wait until it is
            over: on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: str = "fp32",
        micro_batches: int = 1,
        set_to_none: bool = True,
        clip: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.micro_batches, self.set_to_none = micro_batches, set_to_none
        self.clip, self.label_smoothing = clip, label_smoothing
        self.device = next(model.parameters()).device
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.skipped = False
        self.done = self.total = 0
        self.rate: float | None = None
        self.changes: Changes | None = None
        self.later = self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "amp_fp16")

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        """Train on images (B, 3, S, S) and labels (B,); returns the mean loss: a number, or where it is read ``later``
        what ``float`` makes one of, within ``losses.KEPT`` steps.

        A loss that is not finite is returned at once, and nothing is updated; if it is read later, this comes too late
        for that. Ctrl-C is obeyed before a step begins.
        """
        interrupt.check()
        if self.changes is not None:
            self.changes.before(self)
        self.done += 1
        if self.rate is not None:
            set_rates(self.optimizer, self.rate)
        return self.update(images, labels)

    @cached_property
    def _losses(self) -> Losses:
        return Losses(self.micro_batches, image_dtype(self.precision), self.device)

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        """The step itself, with the model as it now is."""
        read: list[tuple[float, float]] = []
        unread = self._losses.next() if self.later else None
        for part in self.parts(images, labels):
            loss = self.loss(*part)
            share = len(part[1]) / len(labels)
            if unread is not None:
                unread.note(loss, share)
            else:
                read.append((loss.item(), share))
                if not math.isfinite(read[-1][0]):
                    return read[-1][0]
            self.backward(loss, share)
            del loss
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.clip)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped = self.scaler.get_scale() < scale
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        return mean_of(read) if unread is None else unread

    def state_dict(self) -> dict[str, Any]:
        """All that steps change: tensors (not copied) and plain values."""
        return {
            "trained": [p.detach() for p in self.trained],
            "buffers": list(self.model.buffers()),
            "zeros": [p.grad is not None for p in self.trained],
            "optimizer": [dict(self.optimizer.state.get(p, {})) for p in self.trained],
            "scaler": self.scaler.state_dict(),
            "done": self.done,
            "changes": None if self.changes is None else self.changes.state_dict(self),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a step of the same model, optimiser and settings was.

        The optimiser's own way would cast what it keeps in fp32 beside weights of another number format.
        """
        # Checkpoints of before have neither of these, nor a method that would ask for them.
        self.done = state.get("done", 0)
        if self.changes is not None and state.get("changes") is not None:
            self.changes.load_state_dict(self, state["changes"])
        for name, mine in (("trained", self.trained), ("buffers", self.model.buffers())):
            for tensor, value in zip(mine, state[name], strict=True):
                if name == "buffers" and not tensor.numel():  # it has no form before a first step
                    tensor.resize_(value.shape)
                tensor.copy_(value)
        for p, kept, zeros in zip(self.trained, state["optimizer"], state["zeros"], strict=True):
            if kept:
                self.optimizer.state[p] = kept
                if "qmap1" in kept:  # tables of bitsandbytes, which all parameters share
                    tables = {"dynamic": kept["qmap1"], "udynamic": kept["qmap2"]}
                    cast(Any, self.optimizer).name2qmap = tables
            p.grad = torch.zeros_like(p) if zeros else None
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def parts(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The micro-batches, as views."""
        if self.micro_batches == 1:
            yield images, labels
        else:
            count = min(self.micro_batches, len(images))
            yield from zip(images.tensor_split(count), labels.tensor_split(count), strict=True)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a micro-batch: see ``models.tasks.loss_of``."""
        loss = loss_of(self.model, self.label_smoothing)
        with autocast(self.precision, self.device):
            return loss(logits_of(self.model(images)), labels)

    def backward(self, loss: torch.Tensor, share: float = 1.0) -> None:
        """Add the gradients of a micro-batch, which has a share of the images."""
        shared = loss * share if self.micro_batches > 1 else loss
        self.scaler.scale(shared).backward()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for a precision, or nothing."""
    name, automatic = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=DTYPES[name]) if automatic else nullcontext()


def image_dtype(precision: str) -> torch.dtype:
    """The number format of images."""
    name, automatic = PRECISIONS[precision]
    return torch.float32 if automatic else DTYPES[name]


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The model with its weights in the precision's own format (autocast leaves them alone)."""
    return model.to(image_dtype(precision))
