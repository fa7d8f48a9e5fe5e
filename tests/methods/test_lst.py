"""LST: what stands beside the blocks, what is refused, what it saves."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Lst, parse_method
from bsr_explorer.prediction import predict, tape_of, trained_blocks
from bsr_explorer.prefix.stages import stages_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
DEIT = Config("deit_s", 112, 10, 4)


def test_it_is_written_as_it_is_read() -> None:
    assert str(Lst()) == "lst(r=8)"
    assert parse_method("lst(r=4)") == Lst(4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lst(r=0)", "r must be a whole number of at least 1"),
        ("lst(r=2.5)", "r must be a whole number of at least 1"),
        ("lst(r=3)", r"lst\(r=3\): heads of 16 channels .*128 .* r must be one of 1, 2, 4, 8, 16$"),
        ("lst+lora", "both choose which parameters train"),
        ("lst+drop({1: 0.5})", "reads the same tokens behind every block, and drop.* drops some; keep one"),
        ("lst+evit", "reads the same tokens behind every block, and evit.* drops some"),
        ("lst+mesa", "mesa.* has nothing to store"),
        ("lst+approxbp", "approxbp has nothing to store"),
        ("lst+velora", "velora.* has nothing to store"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="architecture other show it nowhere; choose linear or last"):
        Lst().rewrite(replace(tape_of(CONFIG), architecture="other"))


def test_the_backbone_keeps_nothing() -> None:
    """Nothing of it needs a gradient, but what follows the sum with the features."""
    tape = tape_of(CONFIG.with_method("lst"))
    needs = tape.needs_grad()
    live = [op for op in tape.backbone if needs[op.writes]]
    assert [(op.name, op.kind) for op in live] == [("head", "linear"), ("loss", "cross_entropy")]
    assert all(op.block is not None or op.name.startswith("head_drop") for op in tape if op.part)


def test_every_block_trains_and_none_is_frozen_for_sure() -> None:
    config = CONFIG.with_method("lst")
    assert trained_blocks(config) == (0, 1, 2, 3)
    assert not any(stage.frozen for stage in stages_of(config)[1:])


@given(r=st.sampled_from([1, 2, 4, 8, 16, 32, 64]), batch=st.integers(1, 5))
def test_what_a_block_saves_is_its_output_and_an_rth_of_a_trained_one(r: int, batch: int) -> None:
    """In bytes: x of the projection; of the small block (8 + 2m)·x/r, two norms' statistics, a log-sum-exp for each
    head; and the difference of the gate."""
    tokens, width, heads, m = batch * 50, 384, 6, 4
    config = replace(DEIT, batch_size=batch, method=Lst(r))
    found = predict(config).by_block()["5"]["saved"]
    x, norms, attention = tokens * width, 2 * 2 * tokens, tokens * heads
    assert found == 4 * (x + (8 + 2 * m) * x // r + norms + attention + x // r)


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["lst(r=8)", "dtl(r=2)", "sherl(r=8)", "losa(r=8)", "repnet(r=8)"])
def test_it_takes_less_than_a_gradient_through_frozen_blocks(method: str) -> None:
    """Of DeiT-S, predicted and measured: under the floor of all that trains something within the backbone."""
    costs = {text: DEIT.with_method(text) for text in ("lora(r=8)", method)}
    predicted = {text: predict(config).saved_bytes for text, config in costs.items()}
    measured = {text: measure(config).saved_bytes for text, config in costs.items()}
    assert predicted == measured
    x, m = 4 * 4 * 50 * 384, 4
    assert predicted["lora(r=8)"] > 12 * (6 + m) * x > 1.5 * predicted[method]


def test_narrower_blocks_have_the_models_sizes_over_r() -> None:
    shapes = {name: p.shape for name, p in tape_of(CONFIG.with_method("lst(r=4)")).parameters.items()}
    own = {
        re.sub(r".*\.ladder\.", "", name): s
        for name, s in shapes.items()
        if name.startswith("blocks.1.ladder")
    }
    assert own["block.attn.qkv.weight"] == (24, 8)
    assert own["block.mlp.fc2.weight"] == (8, 32)
    assert own["down.weight"] == (8, 32)
    assert own["gate"] == (1,)
    assert ("blocks.0.ladder.first.weight" in shapes, "blocks.1.ladder.first.weight" in shapes) == (
        True,
        False,
    )


def test_it_stays_when_training_is_over() -> None:
    assert Lst(4).at_inference == Lst(4)
