"""Sizes that follow the batch, found by two traces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.models.traced.calls import Call, Differs, Place, Sized, Spec, Trace, joined, leaves, mapped


def _trace(images: int, path: str = "head") -> Trace:
    call = Call(path, torch.relu, (Place(0), [images * 4, 7]), {"dim": images + 3}, (), ())
    return Trace((call,), {"images": Spec((images, 3), (3, 1), torch.float32)}, {}, {}, "relu 0")


def test_what_differs_between_two_traces_grows_with_the_batch() -> None:
    trace = joined(_trace(2), 2, _trace(3), 3)
    assert trace.calls[0].args == (Place(0), [Sized(4, 0), 7])
    assert trace.calls[0].kwargs == {"dim": Sized(1, 3)}
    assert trace.inputs["images"].shape == (Sized(1, 0), 3)


@given(st.integers(1, 10_000))
def test_a_trace_of_two_stands_for_all(batch: int) -> None:
    assert joined(_trace(2), 2, _trace(3), 3).at(batch) == _trace(batch)


def test_other_calls_are_another_trace() -> None:
    with pytest.raises(Differs, match="head"):
        joined(_trace(2), 2, _trace(3, "other"), 3)
    with pytest.raises(Differs):
        joined(_trace(2), 2, replace(_trace(3), calls=()), 3)


def test_leaves_are_found_wherever_they_stand() -> None:
    structure = ({"a": [1, (2, 3)]}, slice(4, None, 5))
    assert list(leaves(structure)) == [1, 2, 3, 4, None, 5]
    assert mapped(structure, lambda leaf: leaf and leaf + 1) == ({"a": [2, (3, 4)]}, slice(5, None, 6))
