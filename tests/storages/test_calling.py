"""Calls that pack what they keep."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.storages import Packing, Quantized
from bsr_explorer.storages.calling import _Packed, laid, pack_calls


class Block(nn.Module):
    """One that reads a tensor twice, and parts of another."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.joined, self.fc = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.joined(self.norm(x)).chunk(3, dim=-1)
        return x + self.fc((q @ k.transpose(-2, -1)).softmax(-1) @ v) + F.gelu(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = (
            nn.Linear(8, 8),
            nn.ModuleList([Block(), Block()]),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).sum()


class Asked:
    """Notes what was asked, and packs into 8 bits."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, tuple[int, ...]]] = []

    def __call__(self, block: int, place: str, shape: tuple[int, ...], images: int) -> Packing | None:
        assert images == 4
        self.asked.append((block, place, shape))
        return None if place == "hidden" else Quantized(8, 1, -1, 0.0)


def packed_model() -> tuple[Model, Asked]:
    torch.manual_seed(0)
    model, asked = Model(), Asked()
    pack_calls(model, enumerate(model.blocks), asked)
    return model, asked


def packed_things() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, _Packed)]


def test_each_storage_is_asked_for_once_with_its_place_and_whole_shape() -> None:
    model, asked = packed_model()
    model(torch.randn(4, 5, 8)).backward()
    first = [(place, shape) for block, place, shape in asked.asked if block == 0]
    assert first == [
        ("residual", (4, 5, 8)),  # which GELU reads, too
        ("attended", (4, 5, 8)),
        ("qkv", (4, 5, 24)),
        ("softmax", (4, 5, 5)),
        ("operand", (4, 5, 8)),
    ]
    assert {block for block, _, _ in asked.asked} == {0, 1}


def test_who_looks_at_what_is_saved_sees_it_packed() -> None:
    model, _ = packed_model()
    x = torch.randn(4, 5, 8)
    with saved_storages(model, [x]) as saved:
        loss = model(x)
    sizes = [row.bytes for row in saved.rows() if row.operation.startswith("blocks.0")]
    assert sizes.count(4 * 5 * 24) == 1  # queries, keys and values, in 8 bits
    assert sizes.count(4 * 5 * 5) == 1
    assert 4 * 5 * 24 * 4 not in sizes
    loss.backward()


def test_what_was_packed_goes_with_the_graph() -> None:
    model, _ = packed_model()
    loss = model(torch.randn(4, 5, 8))
    assert packed_things()
    loss.backward()
    assert not packed_things()
    model(torch.randn(4, 5, 8)).backward()  # and the next step is as the first


def test_a_copy_packs_too_and_knows_nothing_of_the_first() -> None:
    model, asked = packed_model()
    model(torch.randn(4, 5, 8)).backward()
    first = len(asked.asked)
    copied = copy.deepcopy(model)
    copied(torch.randn(4, 5, 8)).backward()
    model(torch.randn(4, 5, 8)).backward()
    assert len(asked.asked) == 2 * first  # the copy asks a copy
    assert copied.stem.weight.grad is not None


def test_parts_of_one_tensor_are_brought_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attending(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = x.view(4, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            return F.scaled_dot_product_attention(q, k, v)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.block = nn.Parameter(torch.ones(())), Attending()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x * self.scale).sum()

    shapes = []
    unpack = Quantized.unpack

    def counted(self: Quantized, packed: Any, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        shapes.append(shape)
        return unpack(self, packed, shape, dtype)

    monkeypatch.setattr(Quantized, "unpack", counted)
    model, asked = Outer(), Asked()
    pack_calls(model, [(0, model.block)], asked)
    model(torch.randn(4, 5, 24)).backward()
    assert sorted(shapes) == [(4, 5, 8), (4, 5, 24)]  # what attention makes; queries, keys and values


def test_a_parameter_and_what_is_made_of_it_are_kept_as_they_are() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.table[0] + x @ self.table[1].t()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Weighted()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x * 1).sum()

    model, asked = Outer(), Asked()
    pack_calls(model, [(0, model.block)], asked)
    model(torch.randn(4, 2, 3)).backward()
    assert [shape for _, _, shape in asked.asked] == [(4, 2, 3)]


def test_what_a_change_in_place_has_altered_is_packed_anew() -> None:
    class Altered(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.shifted = x * 1
            first = y.softmax(-1) + F.layer_norm(y, (3,))
            return first + F.layer_norm(y.add_(1), (3,))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.block = nn.Parameter(torch.ones(())), Altered()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x * self.scale).sum()

    model, asked = Outer(), Asked()
    pack_calls(model, [(0, model.block)], asked)
    model(torch.randn(4, 2, 3)).backward()
    assert [place for _, place, _ in asked.asked] == ["softmax", "residual", "residual"]


def test_how_a_tensor_lies() -> None:
    x = torch.empty(2, 3, 4, 5)
    assert laid(x) == (2, 3, 4, 5)
    assert laid(x.transpose(1, 2)) == (2, 3, 20)  # heads side by side
    assert laid(x.permute(0, 3, 1, 2)) == (2, 3, 4, 5)  # channels last
    assert laid(x[:, :2]) is None
    assert laid(x.expand(2, 3, 4, 5)[0]) is None
    assert laid(torch.empty(1, 4, 5).expand(3, 4, 5)) is None


@pytest.mark.parametrize("steps", [3])
def test_training_goes_down(steps: int) -> None:
    model, _ = packed_model()
    x, optimizer = torch.randn(4, 5, 8), torch.optim.SGD(model.parameters(), lr=1e-5)
    losses = []
    for _ in range(steps):
        loss = model(x).square()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
