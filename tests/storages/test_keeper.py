"""Keepers: what is remembered, when, and what is not packed."""

from __future__ import annotations

import torch
from torch import nn

from bsr_explorer.storages import Narrow, Quantized
from bsr_explorer.storages.keeper import Keeper, Kept, attach, take_attached, thrown_away

X = torch.arange(24.0).view(2, 3, 4)


def test_running_ranges_are_saved_with_the_model() -> None:
    model = nn.Sequential(Keeper(Quantized(8, 2)))
    model[0].keep(X)
    state = model.state_dict()
    assert state["0.running"].tolist() == [[0.0, 2.0], [21.0, 21.0]]
    other = nn.Sequential(Keeper(Quantized(8, 2)))
    other.load_state_dict(state)
    assert torch.equal(other[0].running, model[0].running)


def test_they_are_left_alone_in_evaluation() -> None:
    keeper = Keeper(Quantized(8, 2)).eval()
    kept = keeper.keep(X)  # never seen: this step's own ranges
    assert bool(keeper.running.isnan().all())  # type: ignore[union-attr]
    assert torch.allclose(kept.restore(kept.tensors), X, atol=0.1)


def test_they_stay_in_fp32() -> None:
    keeper = Keeper(Quantized(8, 2)).to(torch.bfloat16)
    assert keeper.running is not None
    assert keeper.running.dtype == torch.float32


def test_what_remembers_nothing_has_no_buffer() -> None:
    assert dict(Keeper(Narrow()).named_buffers()) == {}
    assert dict(Keeper(Quantized(8, 2, ema=0.0)).state_dict()) == {}


def test_what_is_thrown_away_is_not_packed() -> None:
    keeper = Keeper(Quantized(8, 2))
    with thrown_away():
        form = keeper.keep(X)
    assert bool(keeper.running.isnan().all())  # type: ignore[union-attr]
    assert [t.shape for t in form.tensors] == [t.shape for t in keeper.keep(X).tensors]


def test_what_is_attached_is_taken_once() -> None:
    x, kept = torch.zeros(2), Kept((), lambda tensors: torch.zeros(2))
    attach(x, kept)
    assert take_attached(x) is kept
    assert take_attached(x) is None
