"""A convolution of patches: shape, what is kept, computed and made on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(
    prefix: int = 0, batch: int = 2, side: int = 3, channels: int = 4, out: int = 4, groups: int = 2
) -> Tape:
    """x of patches behind ``prefix`` other tokens, convolved with a kernel of 3 by 3."""
    x = Tensor("x", (batch, prefix + side * side, channels), "x")
    weight = Parameter("w", (out, channels // groups, 3, 3), 0)
    op = Op("conv", "convolution", 0, ("x",), "y", {"weight": "w"}, {"prefix": prefix, "side": side})
    return Tape((x,), {"w": weight}, (op,))


@given(
    prefix=st.integers(0, 2),
    batch=st.integers(1, 3),
    side=st.integers(1, 5),
    a_group=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
)
def test_flops_are_those_of_each_groups_own_channels(
    prefix: int, batch: int, side: int, a_group: tuple[int, int, int]
) -> None:
    within, made, groups = a_group
    tape = _tape(prefix, batch, side, within * groups, made * groups, groups)
    found = {kind: count for _, kind, count in Recorded.of(tape, live_inputs=True).computed()}
    each = 2 * batch * side * side * groups * within * made * 9
    assert (found["forward"], found["backward"]) == (each, 2 * each)
    without = {kind: count for _, kind, count in Recorded.of(tape).computed()}
    assert (without["forward"], without["backward"]) == (each, each)


@pytest.mark.parametrize("prefix", [0, 1])
def test_its_input_is_kept_if_its_weight_trains(prefix: int) -> None:
    tape = _tape(prefix)
    saved = [(name, size) for _, _, name, size in Recorded.of(tape, live_inputs=True).saved()]
    assert saved == [("x", 4 * 2 * (9 + prefix) * 4)]
    frozen = tape.train_only(lambda p: False)
    assert not list(Recorded.of(frozen, live_inputs=True).saved())


def test_what_is_convolved_is_laid_behind_the_tokens_that_stay(passes: Passes) -> None:
    forward, backward = passes(_tape(prefix=1))
    patches, whole = 4 * 2 * 9 * 4, 4 * 2 * 10 * 4
    assert forward == [("conv:convolved", patches), ("y", whole), ("conv:convolved", -patches)]
    made = [(name, size) for name, size in backward if size > 0]
    weight = 4 * 4 * 2 * 9
    assert made == [
        ("conv:gradient of patches", patches),
        ("conv:gradient by channel", weight),
        ("gradient of w", weight),
        ("gradient 1 of x", whole),
    ]


def test_depthwise_a_weights_gradient_lies_as_it_comes(passes: Passes) -> None:
    _, backward = passes(_tape(groups=4))
    assert [name for name, size in backward if size > 0] == ["gradient 1 of x", "gradient of w"]
