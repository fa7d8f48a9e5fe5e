"""Prefixes, drops and pooling: what they make, in the order that torch does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.cost.step import saved
from bsr_explorer.operations.tokens import kept_tokens
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


@pytest.mark.parametrize(("batch", "made"), [(1, []), (2, [("gradient of class", 12)])])
def test_a_class_tokens_gradient_is_a_view_where_there_is_one_image(
    passes: Passes, batch: int, made: Changes
) -> None:
    op = Op("", "prefix_tokens", None, ("x",), "y", {"class": "class"})
    tape = Tape((Tensor("x", (batch, 4, 3), "x"),), {"class": Parameter("class", (1, 1, 3), None)}, (op,))
    assert passes(tape)[1] == made


def _drop(batch: int, fuse: bool, scored: bool = False) -> Tape:
    """A class token and 8 patch tokens, 3 wide, of which half are kept; ``scored``: their scores need a gradient."""
    attrs: dict[str, Any] = {"prefix": 1, "keep": 0.5, "fuse": fuse}
    inputs = (
        Tensor("x", (batch, 9, 3), "x"),
        Tensor("scores", (batch, 8), "scores", role="activation" if scored else "input"),
    )
    return Tape(inputs, {}, (Op("drop", "drop_tokens", 0, ("x", "scores"), "y", attrs=attrs),))


@pytest.mark.parametrize("scored", [True, False])
def test_a_drop_keeps_positions_and_weights_and_for_scores_what_it_drops(
    passes: Passes, scored: bool
) -> None:
    left: Counter[str] = Counter()
    for name, change in passes(_drop(2, fuse=True, scored=scored))[0]:
        left[name] += change
    kept = {"y": 2 * 6 * 3 * 4, "drop:positions": 2 * 8 * 4, "drop:weights": 2 * 4 * 4}
    assert +left == kept | ({"drop:dropped": 2 * 4 * 3 * 4} if scored else {})
    assert (-left)["x"] == 2 * 9 * 3 * 4  # which it was given


def test_gradients_of_a_drop_are_copied_into_one_tensor(passes: Passes) -> None:
    whole, half, above, where = 2 * 9 * 12, 2 * 4 * 12, 2 * 6 * 12, 2 * 4 * 4
    assert passes(_drop(2, fuse=True, scored=True))[1] == [
        ("gradient 1 of x", whole),
        ("drop:gradient of selected", half),
        ("drop:where kept", where),
        ("drop:gradient of selected", -half),
        ("drop:where kept", -where),
        ("drop:where dropped", where),
        ("drop:gradient of dropped", half),
        ("drop:gradient of dropped", -half),
        ("drop:gradient by token", 2 * 9 * 4),
        ("drop:gradient of weights", 2 * 4 * 4),
        ("drop:gradient of weights", -2 * 4 * 4),
        ("gradient 2 of scores", 2 * 8 * 4),
        ("drop:gradient by token", -2 * 9 * 4),
        ("drop:where dropped", -where),
        ("gradient from above", -above),
        ("drop:positions", -2 * 8 * 4),
        ("drop:weights", -2 * 4 * 4),
        ("drop:dropped", -half),
    ]


def test_with_one_image_the_kept_tokens_see_the_gradient_itself(passes: Passes) -> None:
    assert passes(_drop(1, fuse=False))[1] == [
        ("gradient 1 of x", 9 * 12),
        ("gradient from above", -5 * 12),
        ("drop:positions", -16),
    ]


def test_a_mean_of_all_tokens_makes_one_gradient(passes: Passes) -> None:
    op = Op("", "mean_tokens", None, ("x",), "y", attrs={"prefix": 0})
    _, backward = passes(Tape((Tensor("x", (2, 5, 3), "x"),), {}, (op,)))
    assert backward == [("gradient 1 of x", 120), ("gradient from above", -24)]


def test_a_mean_of_the_patches_spreads_its_gradient_over_them_first(passes: Passes) -> None:
    op = Op("", "mean_tokens", None, ("x",), "y", attrs={"prefix": 1})
    _, backward = passes(Tape((Tensor("x", (2, 5, 3), "x"),), {}, (op,)))
    assert backward == [
        (":spread gradient", 96),
        ("gradient from above", -24),
        ("gradient 1 of x", 120),
        (":spread gradient", -96),
    ]


def test_selecting_a_token_takes_nothing_until_its_gradient_fills_all_tokens(passes: Passes) -> None:
    op = Op("", "select_token", None, ("x",), "y")
    forward, backward = passes(Tape((Tensor("x", (2, 5, 3), "x"),), {}, (op,)))
    assert [change for _, change in forward if change > 0] == []
    assert backward == [("gradient 1 of x", 120), ("gradient from above", -24)]


@pytest.mark.parametrize("faithful", [True, False])
def test_a_drop_keeps_32_bit_positions_and_the_weights_of_what_it_fuses(faithful: bool) -> None:
    attrs = {"prefix": 1, "heads": 1, "path": "fused", "detached": not faithful}
    ops = (
        Op("attn", "class_attention", 0, ("qkv",), "scores", attrs=attrs),
        Op("drop", "drop_tokens", 0, ("x", "scores"), "y", attrs={"prefix": 1, "keep": 0.5, "fuse": True}),
    )
    inputs = (Tensor("x", (2, 9, 3), "x"), Tensor("qkv", (2, 9, 9), "qkv"))
    kept = {storage: size for _, _, storage, size in saved(Tape(inputs, {}, ops), live_inputs=True)}
    whole = {"drop:positions": 2 * 8 * 4, "drop:weights": 2 * 4 * 4}
    if faithful:  # the dropped tokens, and of the class token's attention its query, itself and qkv
        whole |= {"drop:dropped": 2 * 4 * 3 * 4, "attn:query": 2 * 3 * 4, "attn:softmax": 2 * 9 * 4}
        whole["qkv"] = 2 * 9 * 9 * 4
    assert kept == whole


def test_the_class_token_holds_the_whole_norm() -> None:
    ops = (
        Op("", "select_token", None, ("x",), "pooled"),
        Op("head", "linear", None, ("pooled",), "y", {"weight": "w"}),
    )
    tape = Tape((Tensor("x", (2, 5, 3), "x"),), {"w": Parameter("w", (4, 3), None)}, ops)
    assert [(name, size) for _, name, _, size in saved(tape)] == [("head", 2 * 5 * 3 * 4)]


# --- how many tokens stay ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patches", "keep", "kept"),
    [
        (196, 0.5, 98),
        (99, 0.5, 50),
        (100, 0.07, 7),
        (10, 0.71, 8),
        (16, 0.999, 16),
        (5, 0.01, 1),
        (9, 1.0, 9),
    ],
)
def test_kept_tokens_are_rounded_up(patches: int, keep: float, kept: int) -> None:
    assert kept_tokens(patches, keep) == kept


@given(patches=st.integers(1, 4096), thousandths=st.integers(1, 1000))
def test_kept_tokens_are_exact_in_decimals(patches: int, thousandths: int) -> None:
    assert kept_tokens(patches, thousandths / 1000) == math.ceil(Fraction(thousandths, 1000) * patches)


def test_however_low_the_rate_one_token_stays() -> None:
    assert kept_tokens(196, 1e-12) == 1
