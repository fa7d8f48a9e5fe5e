"""TinyTL: what trains, what is refused, what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import BitFit, TinyTL, parse_method
from bsr_explorer.prediction import predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(TinyTL()) == "tinytl(r=8)"
    assert parse_method("tinytl(r=4, groups=1)") == TinyTL(4, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tinytl(r=5)", "is no multiple of r; r must be one of 1, 2, 4, 8, 16$"),
        ("tinytl+evit", "reads the same tokens behind every block, and evit"),
        ("tinytl+bitfit", "both choose which parameters train"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


def test_beside_its_modules_the_biases_train_and_no_weight() -> None:
    trained = {name for name, p in tape_of(CONFIG.with_method("tinytl")).parameters.items() if p.trains}
    theirs = {name for name, p in tape_of(CONFIG.with_method("bitfit")).parameters.items() if p.trains}
    assert theirs < trained
    assert all(".lite_residual." in name for name in trained - theirs)


@given(r=st.sampled_from([1, 2, 4, 8, 16]), batch=st.integers(1, 4), side=st.integers(2, 6))
def test_what_a_block_saves_is_bitfits_and_its_modules(r: int, batch: int, side: int) -> None:
    config = Config("deit_s", 16 * side, 10, batch)
    tokens, width = batch * (-(-side // 2)) ** 2, 384
    mine = predict(config.with_method(TinyTL(r))).by_block()["5"]["saved"]
    bitfit = predict(config.with_method(BitFit())).by_block()["5"]["saved"]
    assert mine - bitfit == 4 * (2 * tokens * width + 2 * tokens * width // r + 2 * 2 * tokens)


def test_it_stays_when_training_is_over() -> None:
    assert TinyTL(4).at_inference == TinyTL(4)
