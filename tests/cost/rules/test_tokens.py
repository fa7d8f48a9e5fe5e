"""Prefixes, drops, pooling and the loss: what they make, in the order that torch does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

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


def _drop(batch: int, fuse: bool, product: str = "fp32") -> Tape:
    """A class token and 8 patch tokens, 3 wide, of which half are kept."""
    attrs: dict[str, Any] = {"prefix": 1, "keep": 0.5, "fuse": fuse, "product": product}
    inputs = (Tensor("x", (batch, 9, 3), "x"), Tensor("scores", (batch, 8), "scores"))
    return Tape(inputs, {}, (Op("drop", "drop_tokens", 0, ("x", "scores"), "y", attrs=attrs),))


def test_a_drop_keeps_positions_and_weights_and_frees_the_rest(passes: Passes) -> None:
    left: Counter[str] = Counter()
    for name, change in passes(_drop(2, fuse=True))[0]:
        left[name] += change
    assert +left == {"y": 2 * 6 * 3 * 4, "drop:positions": 2 * 4 * 4, "drop:weights": 2 * 8 * 4}
    assert -left == {"x": 2 * 9 * 3 * 4, "scores": 2 * 8 * 4}  # which it was given


def test_the_gradients_of_a_drop_are_added_up_one_by_one(passes: Passes) -> None:
    whole, patches, kept, above = 2 * 9 * 12, 2 * 8 * 12, 2 * 4 * 12, 2 * 6 * 12
    assert passes(_drop(2, fuse=True))[1] == [
        ("drop:gradient of fused", patches),
        ("drop:weights", -64),
        ("gradient 1 of x", whole),
        ("drop:gradient of fused", -patches),
        ("gradient 2 of x", whole),
        ("gradient 2 of x", -whole),
        ("drop:gradient of selected", kept),
        ("gradient from above", -above),
        ("gradient 3 of x", whole),
        ("drop:gradient of selected", -kept),
        ("drop:positions", -32),
        ("gradient 3 of x", -whole),
    ]


def test_with_one_image_the_kept_tokens_see_the_gradient_itself(passes: Passes) -> None:
    whole, above = 9 * 12, 5 * 12
    assert passes(_drop(1, fuse=False))[1] == [
        ("gradient 1 of x", whole),
        ("gradient 2 of x", whole),
        ("gradient from above", -above),
        ("drop:positions", -16),
        ("gradient 2 of x", -whole),
    ]


def test_fusing_in_16_bits_casts_there_and_back(passes: Passes) -> None:
    backward = passes(_drop(2, fuse=True, product="bf16"))[1]
    assert backward[:7] == [
        ("drop:cast gradient", 2 * 3 * 2),
        ("drop:gradient of fused", 2 * 8 * 3 * 2),
        ("drop:cast gradient", -2 * 3 * 2),
        ("drop:cast weights", -2 * 8 * 2),
        ("drop:wide gradient of fused", 2 * 8 * 3 * 4),
        ("drop:gradient of fused", -2 * 8 * 3 * 2),
        ("gradient 1 of x", 2 * 9 * 3 * 4),
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


def test_a_loss_keeps_log_probabilities_and_a_weight(passes: Passes) -> None:
    op = Op("loss", "cross_entropy", None, ("x", "labels"), "y")
    inputs = (Tensor("x", (2, 5), "x"), Tensor("labels", (2,), "labels", "int64", role="input"))
    forward, backward = passes(Tape(inputs, {}, (op,)))
    assert forward == [("loss:log_softmax", 40), ("y", 4), ("loss:total_weight", 4), ("x", -40)]
    assert backward == [
        ("loss:gradient of log_softmax", 40),
        ("gradient from above", -4),
        ("loss:total_weight", -4),
        ("gradient 1 of x", 40),
        ("loss:gradient of log_softmax", -40),
        ("loss:log_softmax", -40),
    ]
