"""SHERL: where features are put together, what is refused, what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Sherl, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.prefix.stages import stages_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Sherl()) == "sherl(r=8)"
    assert parse_method("sherl(r=4)") == Sherl(4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sherl(r=0)", "r must be a whole number of at least 1"),
        ("sherl(r=5)", "a width of 32 is no multiple of r; r must be one of 1, 2, 4, 8, 16, 32"),
        ("sherl+drop({1: 0.5})", "reads the same tokens behind every block, and drop"),
        ("sherl+velora", "velora.* has nothing to store"),
        ("sherl+lst", "both choose which parameters train"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


def test_only_the_last_block_passes_a_gradient() -> None:
    config = CONFIG.with_method("sherl")
    tape = tape_of(config)
    needs = tape.needs_grad()
    assert {op.block for op in tape.backbone if op.block is not None and needs[op.writes]} == {3}
    assert not any(stage.frozen for stage in stages_of(config)[1:])


@given(r=st.sampled_from([4, 8, 16]), batch=st.integers(1, 4))
def test_what_blocks_save(r: int, batch: int) -> None:
    """In bytes: x for the projection and H numbers a token for the norm; before the last block all layers once more,
    and ReLU's result; of that block what passing a gradient takes."""
    config = Config("deit_s", 112, 10, batch, method=Sherl(r))
    tokens, width, heads, m = batch * 50, 384, 6, 4
    narrow = width // r
    each = tokens * width + tokens * narrow + 2 * tokens
    together = 12 * tokens * narrow + tokens * narrow
    passing = (6 + m) * tokens * width + 4 * tokens + tokens * heads
    found = predict(config).by_block()
    assert {found[str(block)]["saved"] for block in range(11)} == {4 * each}
    assert found["11"]["saved"] == 4 * (each + together + passing)


def test_it_stays_when_training_is_over() -> None:
    assert Sherl(4).at_inference == Sherl(4)
