"""Rep-Net: what is refused, what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import RepNet, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.prefix.stages import stages_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(RepNet()) == "repnet(r=8)"
    assert str(RepNet(4, 1)) == "repnet(r=4, groups=1)"
    assert parse_method("repnet(r=4, groups=1)") == RepNet(4, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("repnet(r=5)", "is no multiple of r; r must be one of 1, 2, 4, 8, 16$"),
        ("repnet+drop({1: 0.5})", "reads the same tokens behind every block, and drop"),
        ("repnet+mesa", "mesa.* has nothing to store"),
        ("repnet+tinytl", "both choose which parameters train"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


def test_one_patch_is_refused() -> None:
    with pytest.raises(UserError, match="takes patches two by two"):
        predict(replace(CONFIG, image_size=16, method="repnet"))


def test_no_block_passes_a_gradient() -> None:
    config = CONFIG.with_method("repnet")
    tape = tape_of(config)
    needs = tape.needs_grad()
    live = [(op.name, op.kind) for op in tape.backbone if needs[op.writes]]
    assert live == [("head", "linear"), ("loss", "cross_entropy")]
    assert not any(stage.frozen for stage in stages_of(config)[1:])


@given(r=st.sampled_from([1, 2, 4, 8, 16, 32]), batch=st.integers(1, 4), side=st.integers(2, 7))
def test_what_a_block_saves(r: int, batch: int, side: int) -> None:
    """In bytes, of a quarter of the patches: inputs of the convolution and of the last norm, and statistics; of r times
    fewer channels, the input of the first norm, and what is behind ReLU."""
    config = Config("deit_s", 16 * side, 10, batch, method=RepNet(r))
    tokens, width = batch * (-(-side // 2)) ** 2, 384
    found = predict(config).by_block()["5"]["saved"]
    assert found == 4 * (2 * tokens * width + 2 * tokens * width // r + 2 * 2 * tokens)


def test_it_stays_when_training_is_over() -> None:
    assert RepNet(4).at_inference == RepNet(4)
