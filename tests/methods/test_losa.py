"""LoSA-style mixers: what is refused, what they save."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Losa, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.prefix.stages import stages_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Losa()) == "losa(r=8)"
    assert parse_method("losa(r=4)") == Losa(4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("losa(r=0)", "r must be a whole number of at least 1"),
        ("losa+drop({1: 0.5})", "reads the same tokens behind every block, and drop"),
        ("losa+backrazor", "backrazor.* has nothing to store"),
        ("losa+sherl", "both choose which parameters train"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


def test_no_block_passes_a_gradient() -> None:
    config = CONFIG.with_method("losa")
    tape = tape_of(config)
    needs = tape.needs_grad()
    assert not any(needs[op.writes] for op in tape.backbone if op.block is not None)
    assert not any(stage.frozen for stage in stages_of(config)[1:])


def test_a_mixer_of_tokens_has_a_row_for_each() -> None:
    shapes = {name: p.shape for name, p in tape_of(CONFIG.with_method("losa(r=3)")).parameters.items()}
    assert shapes["blocks.2.losa.channels.down.weight"] == (3, 32)
    assert shapes["blocks.2.losa.tokens.down.weight"] == (3, 10)
    assert shapes["blocks.2.losa.tokens.up.weight"] == (10, 3)


@given(r=st.integers(1, 32), batch=st.integers(1, 4))
def test_what_a_block_saves(r: int, batch: int) -> None:
    """In bytes: input and output of two norms, of r numbers a token and a channel those before and behind GELU, and
    statistics."""
    config = Config("deit_s", 112, 10, batch, method=Losa(r))
    tokens, width = batch * 50, 384
    found = predict(config).by_block()["5"]["saved"]
    assert found == 4 * (4 * tokens * width + 2 * 2 * tokens + 2 * r * tokens + 2 * r * batch * width)


def test_it_stays_when_training_is_over() -> None:
    assert Losa(4).at_inference == Losa(4)
