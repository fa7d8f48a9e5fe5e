"""Checkpointing: blocks that run again in backward, and what that saves and costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Bsr, Checkpoint, Full, Last, parse_method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.prediction import predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", image_size=48, batch_size=2, method="full")
BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"


def segments(method: str) -> dict[int | None, set[str]]:
    """The segments of the operations of each block."""
    found: dict[int | None, set[str]] = {}
    for op in tape_of(CONFIG.with_method(method)):
        found.setdefault(op.block, set()).add(op.segment)
    return found


def test_each_chosen_block_is_a_segment_of_its_own() -> None:
    every = segments("checkpoint")
    assert every == {None: {""}, 0: {"blocks.0"}, 1: {"blocks.1"}, 2: {"blocks.2"}, 3: {"blocks.3"}}
    assert segments("checkpoint(blocks=(1, 3))") == every | {0: {""}, 2: {""}}


def test_dropped_tokens_are_dropped_within_the_segment() -> None:
    drops = [op for op in tape_of(CONFIG.with_method(f"{BSR}+checkpoint")) if op.kind == "drop_tokens"]
    assert [op.segment for op in drops] == ["blocks.1", "blocks.2"]


def test_nothing_else_of_the_tape_changes() -> None:
    plain, again = tape_of(CONFIG), tape_of(CONFIG.with_method("checkpoint"))
    assert plain == replace(again, ops=tuple(replace(op, segment="") for op in again))


def test_a_block_out_of_range_is_refused_by_the_tape_and_by_the_model() -> None:
    beyond = CONFIG.with_method("checkpoint(blocks=(3, 4))")
    for refusing in (predict, build, lambda config: config.key(4)):
        with pytest.raises(UserError, match=r"checkpoint\(blocks=…\): block 4 is out of range; .* 0 to 3"):
            refusing(beyond)


# --- one experiment -------------------------------------------------------------------------------------


def test_all_blocks_by_name_are_all_blocks() -> None:
    assert Checkpoint((3, 0, 2, 1)).canonical(4) == Checkpoint()
    assert Checkpoint((0, 1, 2, 3)).canonical(5) == Checkpoint((0, 1, 2, 3))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{BSR}+checkpoint", f"checkpoint+{BSR}"),
        ("checkpoint(blocks=(0, 2))+last(2)", "last(2)+checkpoint(blocks=[2, 0])"),
        ("checkpoint+last(2)", "bsr(blocks=(2, 3), keep={})+checkpoint(blocks=(0, 1, 2, 3))"),
        ("full+checkpoint", "checkpoint"),
        ("checkpoint+full", "checkpoint()"),
    ],
)
def test_however_it_is_written_it_is_one_experiment(one: str, other: str) -> None:
    assert CONFIG.with_method(one).key(4) == CONFIG.with_method(other).key(4)
    assert predict(CONFIG.with_method(one)) == predict(CONFIG.with_method(other))


def test_it_is_another_experiment_than_without() -> None:
    keys = {
        CONFIG.with_method(text).key(4)
        for text in (BSR, f"{BSR}+checkpoint", f"{BSR}+checkpoint(blocks=(3,))", "checkpoint", "full")
    }
    assert len(keys) == 5


def test_it_stands_after_what_changes_the_model() -> None:
    method = Checkpoint() + Bsr((1,), {2: 0.5})
    assert str(method) == "bsr(blocks=(1,), keep={2: 0.5}, fuse=True)+checkpoint"
    assert parse_method(str(method)) == method
    assert isinstance(method, Composed)
    assert method.canonical(4) == method


def test_twice_is_refused() -> None:
    with pytest.raises(UserError, match="checkpoint stands twice"):
        Checkpoint((0,)) + Full() + Checkpoint((1,))


# --- what it saves and costs ----------------------------------------------------------------------------


def test_a_block_keeps_its_input_only() -> None:
    tokens = CONFIG.batch_size * (9 + 1) * 32 * 4  # 9 patches and the class token, 32 wide
    predicted = predict(CONFIG.with_method("checkpoint(blocks=(1, 2))"))
    kept = [(row.operation, row.bytes) for row in predicted if row.kind == "saved" and row.block in (1, 2)]
    assert kept == [("blocks.1", tokens), ("blocks.2", tokens)]


@pytest.mark.parametrize(
    "method", ["checkpoint", f"{BSR}+checkpoint", f"{BSR}+checkpoint(blocks=(2,))", "last(k=2)+checkpoint"]
)
@pytest.mark.parametrize("attention", ["fused", "math"])
def test_what_is_predicted_is_measured(method: str, attention: str) -> None:
    config = replace(CONFIG, attention=attention, method=method)
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-3)


def test_what_runs_again_is_counted_by_its_block() -> None:
    plain, again = predict(CONFIG), predict(CONFIG.with_method("checkpoint(blocks=(1, 2))"))
    assert plain.flops_of("recompute") == 0
    assert again.flops_of("forward", "backward") == plain.train_flops
    assert again.train_flops == plain.train_flops + again.flops_of("recompute")
    for block in range(4):
        forward, recompute = (
            sum(row.flops for row in again if row.block == block and row.kind == kind)
            for kind in ("forward", "recompute")
        )
        assert (0 < recompute < forward) if block in (1, 2) else recompute == 0  # fc2 need not run again


def test_blocks_of_which_nothing_is_kept_are_left_alone() -> None:
    assert predict(CONFIG.with_method("linear+checkpoint")) == predict(CONFIG.with_method("linear"))
    above = CONFIG.with_method(Last(2) + Checkpoint((2, 3)))
    assert predict(CONFIG.with_method("last(k=2)+checkpoint")) == predict(above)


def test_the_peak_of_a_real_model_falls() -> None:
    config = Config("deit_s", batch_size=16, method="full")
    assert predict(config.with_method("checkpoint")).peak_bytes < 0.6 * predict(config).peak_bytes
