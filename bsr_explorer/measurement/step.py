"""One real training step, measured: the same ledger as a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.ledger import Ledger, Row, ledger
from bsr_explorer.measurement.flops import Uncounted, counter
from bsr_explorer.measurement.peak import LiveStorages
from bsr_explorer.measurement.saved import saved_storages


@dataclass(frozen=True)
class Measurement:
    """The measured ledger, and the operations whose FLOPs nobody counted (none, if all is well)."""

    ledger: Ledger
    uncounted: tuple[str, ...]


def measure_step(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
) -> Measurement:
    """Run two real steps and account for them.

    The first step counts saved storages and FLOPs and brings the optimiser's state into being; the
    second one, a steady step, gives the peak.

    Args:
        images: (B, channels, S, S), on the model's device.
        labels: (B,), class indices.
    """
    model.train()
    with saved_storages(model, [images, labels]) as saved:
        loss = F.cross_entropy(model(images), labels)
        rows = saved.rows()
    loss.backward()
    rows += _state_rows(model, optimizer, images, labels)
    uncounted: set[str] = set()
    rows += list(_flop_rows(model, images, labels, uncounted))
    optimizer.zero_grad(set_to_none=True)
    peak, how = _peak(model, images, labels, optimizer)
    return Measurement(ledger(rows, peak, how), tuple(sorted(uncounted)))


def _state_rows(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> list[Row]:
    """Parameters, gradients, the batch and, after one step, the optimiser's state."""
    optimizer.step()
    rows = [
        Row(None, name, "input", bytes=_nbytes(x)) for name, x in (("images", images), ("labels", labels))
    ]
    for name, p in model.named_parameters():
        block = int(name.split(".")[1]) if name.startswith("blocks.") else None
        rows.append(Row(block, name, "parameter", bytes=_nbytes(p)))
        if p.grad is not None:
            # Its own elements: with one image, the class token's gradient is a view of another one's.
            rows.append(Row(block, name, "gradient", bytes=p.grad.nbytes))
        state = optimizer.state.get(p, {}).values()
        size = sum(_nbytes(value) for value in state if isinstance(value, torch.Tensor))
        rows.append(Row(block, name, "optimizer", bytes=size))
    return rows


def _flop_rows(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, uncounted: set[str]
) -> Iterator[Row]:
    """FLOPs of forward and of backward, as two rows: the counter knows no operation's backward by name."""
    flops = counter()
    with Uncounted(flops) as unknown, flops:
        loss = F.cross_entropy(model(images), labels)
        forward = flops.get_total_flops()
        loss.backward()
    uncounted |= unknown.names
    yield Row(None, "step", "forward", flops=forward)
    yield Row(None, "step", "backward", flops=flops.get_total_flops() - forward)


def _peak(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer
) -> tuple[int, str]:
    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    if images.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(), "allocator"
    state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    with LiveStorages([*model.parameters(), *model.buffers(), *state, images, labels]) as live:
        step()
    return live.peak_bytes, "live storages"


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
