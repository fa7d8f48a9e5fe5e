"""DTL: where its sum is added, what is refused, what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Dtl, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.prefix.stages import stages_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Dtl()) == "dtl(r=2)"
    assert str(Dtl(4, 7)) == "dtl(r=4, first=7)"
    assert parse_method("dtl(r=4, first=7)") == Dtl(4, 7)
    assert str(Dtl(plus=True)) == "dtl(r=2, plus=True)"
    assert parse_method("dtl(plus=True)") == Dtl(plus=True)


def test_half_of_the_depth_is_where_it_begins_if_nothing_is_said() -> None:
    assert [Dtl().begins(depth) for depth in (1, 2, 12, 24)] == [0, 1, 6, 12]
    assert Dtl(2, 6).canonical(12) == Dtl(2)
    assert Dtl(2, 6).canonical(24) == Dtl(2, 6)
    assert Dtl(2, 6, True).canonical(12) == Dtl(2, plus=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dtl(r=0)", "r must be a whole number of at least 1"),
        ("dtl(first=-1)", "first must be a whole number of at least 0"),
        ("dtl(first=4)", "block 4 is out of range; the model has 4 blocks, so first must be 0 to 3"),
        ("dtl(plus=1)", "plus must be True or False"),
        ("dtl(r=33)", "a block has 32 channels, so r must be 1 to 32"),
        ("dtl+drop({1: 0.5})", "reads the same tokens behind every block, and drop"),
        ("dtl(first=3)+mesa", "mesa.* has nothing to store"),
        ("dtl+lst", "both choose which parameters train"),
    ],
)
def test_what_does_not_go_is_refused_before_anything_runs(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        predict(replace(CONFIG, method=text))
    assert str(refused.value).startswith("--method: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("first", range(4))
def test_blocks_up_to_the_first_addition_need_no_gradient(first: int) -> None:
    tape = tape_of(CONFIG.with_method(Dtl(2, first)))
    needs = tape.needs_grad()
    live = {op.block for op in tape.backbone if op.block is not None and needs[op.writes]}
    assert live == set(range(first + 1, 4))
    assert not any(stage.frozen for stage in stages_of(CONFIG.with_method(Dtl(2, first)))[1:])


@given(r=st.integers(1, 16), first=st.integers(0, 11), batch=st.integers(1, 4), plus=st.booleans())
def test_what_blocks_save(r: int, first: int, batch: int, plus: bool) -> None:
    """In bytes: x for A and r numbers a token for B; from ``first`` on the sum, and what swish makes of it where a
    convolution reads that; above it, what passing a gradient takes, in which x is counted."""
    config = Config("deit_s", 112, 10, batch, method=Dtl(r, first, plus))
    tokens, width, heads, m = batch * 50, 384, 6, 4
    x, passing = tokens * width, (6 + m) * tokens * width + 4 * tokens + tokens * heads
    found = predict(config).by_block()
    for block in range(12):
        own = (passing if block > first else x) + r * tokens + ((1 + plus) * x if block >= first else 0)
        assert found[str(block)]["saved"] == 4 * own, block


def test_one_convolution_stands_in_the_first_block_that_is_added_to() -> None:
    config = CONFIG.with_method(Dtl(2, 1, plus=True))
    assert {n: p.shape for n, p in tape_of(config).parameters.items() if n.endswith("fusion")} == {
        "blocks.1.dtl.fusion": (32, 1, 3, 3)
    }
    readers = [op.name for op in tape_of(config) if "blocks.1.dtl.fusion" in op.params.values()]
    assert readers == [f"blocks.{block}.dtl" for block in (1, 2, 3)]


@pytest.mark.parametrize("keeps", [True, False])
def test_gradients_of_the_shared_convolution_are_added_where_they_arrive(keeps: bool) -> None:
    """To the byte: of several micro-batches, and where gradients stay, another is made first."""
    method = Dtl(32, 0, plus=True)
    config = Config("toy", 32, 5, 2, method=method, micro_batches=2, set_to_none=not keeps, optimizer="sgd")
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes


def test_it_stays_when_training_is_over() -> None:
    assert Dtl(4, 7).at_inference == Dtl(4, 7)
