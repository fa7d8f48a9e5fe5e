"""What autograd holds of toy networks, counted by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bsr_explorer.ledger import Row
from bsr_explorer.measurement.saved import saved_storages


class Toy(nn.Module):
    """A Linear layer 3 → 5 in ``blocks.0``, a buffer of 5, a Linear layer 5 → 2, and a way between them."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 5)])
        self.head = nn.Linear(5, 2)
        self.buffer: Tensor
        self.register_buffer("buffer", torch.ones(4, 5))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """(4, 3) → (4, 2)."""
        out: Tensor = self.head(self.between(self.blocks[0](x), self.buffer))
        return out


def _rows(between: Callable[[Tensor, Tensor], Tensor], loss: bool = False) -> list[Row]:
    """What is held for backward of 4 inputs."""
    model, x, labels = Toy(between), torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    with saved_storages(model, [x, labels]) as saved:
        out = model(x)
        out = F.cross_entropy(out, labels) if loss else out
        rows = saved.rows()
    assert out.requires_grad
    return rows


def test_inputs_and_parameters_do_not_count() -> None:
    assert _rows(lambda h, buffer: h) == [Row(None, "head", "saved", bytes=4 * 5 * 4)]


def test_a_buffer_does_not_count() -> None:
    rows = _rows(lambda h, buffer: h * buffer)  # keeps the buffer for h, which needs a gradient
    assert rows == [Row(None, "head", "saved", bytes=4 * 5 * 4)]


def test_a_storage_that_two_operations_keep_counts_once_for_the_first() -> None:
    rows = _rows(lambda h, buffer: h.exp())  # exp keeps what it writes, and so does the head
    assert rows == [Row(None, "", "saved", bytes=4 * 5 * 4)]


def test_a_view_holds_its_whole_storage() -> None:
    rows = _rows(lambda h, buffer: torch.cat([h, h], dim=1)[:, 5:])
    assert rows == [Row(None, "head", "saved", bytes=4 * 10 * 4)]


def test_a_storage_that_is_gone_by_the_end_does_not_count() -> None:
    def between(h: Tensor, buffer: Tensor) -> Tensor:
        (h * 2).sin().sum()  # sin keeps its input, for nobody
        return h

    assert _rows(between) == [Row(None, "head", "saved", bytes=4 * 5 * 4)]


def test_a_later_storage_is_not_mistaken_for_one_that_is_gone() -> None:
    def between(h: Tensor, buffer: Tensor) -> Tensor:
        for _ in range(20):
            (h * 2).sin().sum()
        return h.exp().sin()  # exp keeps what it writes, which sin keeps too; the head keeps the sine

    assert [row.bytes for row in _rows(between)] == [80, 80]


def test_a_graph_that_is_not_recorded_keeps_nothing() -> None:
    def between(h: Tensor, buffer: Tensor) -> Tensor:
        with torch.no_grad():
            return h.exp().sin()

    assert [row.operation for row in _rows(between)] == ["head"]


def test_the_loss_keeps_log_probabilities_and_a_weight() -> None:
    rows = _rows(lambda h, buffer: h, loss=True)
    assert [(row.operation, row.bytes) for row in rows if row.operation == "loss"] == [
        ("loss", 4 * 2 * 4),
        ("loss", 4),
    ]


def test_an_operation_in_a_block_has_its_index() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity(), nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.blocks[1](x)
            return out

    model, x = Inner(), torch.randn(4, 3)
    with saved_storages(model, [x]) as saved:
        out = model(x)
        assert saved.rows() == [Row(1, "blocks.1.1", "saved", bytes=4 * 3 * 4)]
    assert out.requires_grad


def test_nothing_is_watched_afterwards() -> None:
    model, x = Toy(lambda h, buffer: h), torch.randn(4, 3)
    with saved_storages(model, [x]) as saved:
        pass
    out = model(x)
    assert out.requires_grad
    assert saved.rows() == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_backward_works_after_watching() -> None:
    model, x = Toy(lambda h, buffer: h.exp()), torch.randn(4, 3)
    with saved_storages(model, [x]):
        loss = model(x).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_nothing_of_a_step_outlives_its_loss() -> None:
    model, x = Toy(lambda h, buffer: h.exp()), torch.randn(4, 3)  # exp keeps what it writes
    kept: list[StorageWeakRef] = []
    model.head.register_forward_pre_hook(
        lambda module, args: kept.append(StorageWeakRef(args[0].untyped_storage()))
    )
    with saved_storages(model, [x]):
        loss = model(x).sum()
    del loss
    gc.collect()
    assert kept[0].expired()
