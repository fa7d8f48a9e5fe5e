"""One real training step, measured: the same ledger as a prediction."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, SupportsFloat, cast

import torch
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.ledger import WHOLE, Kind, Ledger, Row, ledger
from bsr_explorer.measurement.flops import ByBlock, Uncounted, counter
from bsr_explorer.measurement.peak import highest_on_cpu
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.naming import given_to, naming_of

Batch = tuple[torch.Tensor, torch.Tensor]


class Stepper(Protocol):
    """A training step that can be run whole and in parts."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    skipped: bool

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> SupportsFloat:
        """Forward, backward and update; the loss."""
        ...

    def parts(self, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Batch]:
        """The micro-batches of a batch."""
        ...

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Forward and loss of a micro-batch."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Its backward."""
        ...


_MOST_SKIPPED = 24
"""Steps until a gradient scaler, which begins at 2^16 and halves when gradients overflow, lets one pass."""


@dataclass(frozen=True)
class Measurement:
    """The measured ledger, and the operations whose FLOPs nobody counted (none, if all is well)."""

    ledger: Ledger
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class Before:
    """What an earlier use of a GPU has left in this process, which does not count.

    Attributes:
        allocated, reserved: bytes.
    """

    allocated: int = 0
    reserved: int = 0

    @classmethod
    def here(cls) -> Before:
        """Give back what can be given back, and look what is left."""
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return cls(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())


NOTHING = Before()

_STEADY = 3
"""Steps on a GPU after the first, until its allocator has all that it needs."""


def measure_step(
    step: Stepper, images: torch.Tensor, labels: torch.Tensor, before: Before = NOTHING
) -> Measurement:
    """Run real steps and account for them.

    A forward pass shows the saved storages, a forward and a backward pass the FLOPs and gradients, a whole
    step brings the optimiser's state into being, and a last one, a steady step, gives the peak. On a GPU the steps come
    first: what is reserved depends on all that was done before.

    Args:
        images: (B, channels, S, S), on the model's device, in its number format.
        labels: (B,), class indices.
        before: what was there before the model.
    """
    model = step.model
    model.train()
    early = _of_a_steady_step(step, images, labels, _STEADY, before) if images.is_cuda else None
    step.optimizer.zero_grad(set_to_none=True)
    rows = saved_rows(step, images, labels)
    uncounted: set[str] = set()
    rows += list(_flop_rows(step, images, labels, uncounted))
    rows += list(_gradient_rows(step))
    step.optimizer.zero_grad(set_to_none=True)
    peak, how, beside = early or _of_a_steady_step(step, images, labels, 0, before)
    rows += list(_standing_rows(step, images, labels))
    return Measurement(ledger(rows, peak, how, beside=beside), tuple(sorted(uncounted)))


def one_that_updates(step: Stepper, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Run steps until one is not skipped by a gradient scaler.

    Raises:
        UserError: a loss is not finite.
    """
    for _ in range(_MOST_SKIPPED):
        loss = float(step(images, labels))
        if not math.isfinite(loss):  # it has ended before its backward pass
            raise UserError(
                f"--measure: the loss of a step is {loss}, and such a step ends there; choose another --precision, "
                "other weights or another seed"
            )
        if not step.skipped:
            break


def _of_a_steady_step(
    step: Stepper, images: torch.Tensor, labels: torch.Tensor, more: int, before: Before
) -> tuple[int, str, dict[str, int]]:
    """The peak after a first step that is not skipped and so many more; see ``peak_of``."""
    one_that_updates(step, images, labels)
    for _ in range(more):
        step(images, labels)
    for _ in range(_MOST_SKIPPED):
        found = peak_of(step, lambda: step(images, labels), images, labels, before)
        if not step.skipped:
            break
    return found


def saved_rows(step: Stepper, images: torch.Tensor, labels: torch.Tensor) -> list[Row]:
    """What the first micro-batch saves for backward, one row a storage."""
    first = next(step.parts(images, labels))
    with saved_storages(step.model, [images, labels]) as saved:
        loss = step.loss(*first)
        rows = saved.rows()
    del loss
    return rows


def _gradient_rows(step: Stepper) -> Iterator[Row]:
    """Gradients by their own elements: with one image, the class token's is a view of another one's."""
    block_of = naming_of(step.model).block_of
    for name, p in step.model.named_parameters():
        if p.grad is not None:
            yield Row(block_of(name), name, "gradient", bytes=p.grad.nbytes)


def _standing_rows(step: Stepper, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Row]:
    """Parameters and buffers, the batch and, after a step, the optimiser's state."""
    block_of = naming_of(step.model).block_of
    yield Row(None, given_to(step.model), "input", bytes=_nbytes(images))
    yield Row(None, "labels", "input", bytes=_nbytes(labels))
    for name, p in step.model.named_parameters():
        yield Row(block_of(name), name, "parameter", bytes=_nbytes(p))
        yield Row(block_of(name), name, "optimizer", bytes=sum(_nbytes(x) for x in _state(step, p)))
    for name, buffer in step.model.named_buffers():
        yield Row(block_of(name), name, "parameter", bytes=_nbytes(buffer))
    yield Row(None, "shared", "optimizer", bytes=sum(_nbytes(x) for x in _shared(step)))


def _state(step: Stepper, p: nn.Parameter) -> list[torch.Tensor]:
    """The optimiser's state of one parameter alone."""
    shared = {x.data_ptr() for x in _shared(step)}
    values = step.optimizer.state.get(p, {}).values()
    return [x for x in values if isinstance(x, torch.Tensor) and x.data_ptr() not in shared]


def _shared(step: Stepper) -> list[torch.Tensor]:
    """What the optimiser keeps for all parameters together: the code maps of an 8-bit one, and the scale and
    the count of a gradient scaler."""
    maps = list(getattr(step.optimizer, "name2qmap", {}).values())
    scaler = getattr(step, "scaler", None)
    counts = (getattr(scaler, name, None) for name in ("_scale", "_growth_tracker"))
    return [*maps, *(x for x in counts if isinstance(x, torch.Tensor))]


def _flop_rows(
    step: Stepper, images: torch.Tensor, labels: torch.Tensor, uncounted: set[str]
) -> Iterator[Row]:
    """FLOPs of forward and of backward, two rows a block: the counter knows no operation's backward by name."""
    flops = counter()
    forward, backward = Counter[int | None](), Counter[int | None]()
    with ByBlock(step.model) as where, Uncounted(flops, where) as unknown, flops:
        for part in step.parts(images, labels):
            loss = step.loss(*part)
            forward += unknown.by_block()
            step.backward(loss)
            backward += unknown.by_block()
    uncounted |= unknown.names
    for kind, found in (("forward", forward), ("backward", backward)):
        for block, count in found.items():
            yield Row(block, WHOLE, cast(Kind, kind), flops=count)


def peak_of(
    step: Stepper,
    run: Callable[[], object],
    images: torch.Tensor,
    labels: torch.Tensor,
    before: Before = NOTHING,
) -> tuple[int, str, dict[str, int]]:
    """The peak of running a step once, in bytes, with what stands before it; how it was found; and what is
    measured beside it (see ``Ledger``)."""
    if images.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        beside = {
            "reserved_bytes": torch.cuda.memory_reserved() - before.reserved,
            "context_bytes": total - free - torch.cuda.memory_reserved(),
        }
        return torch.cuda.max_memory_allocated() - before.allocated, "allocator", beside
    standing = _standing(step, images, labels)
    highest = highest_on_cpu(run)
    beside = {"scratch_bytes": highest.allocator - highest.tensors}
    return standing + highest.tensors, "live tensors", beside


def _standing(step: Stepper, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes of parameters, buffers, gradients, optimiser state and the batch."""
    parameters = list(step.model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    state = [x for p in parameters for x in _state(step, p)]
    tensors = [*parameters, *step.model.buffers(), *gradients, *state, *_shared(step), images, labels]
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
