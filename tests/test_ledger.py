"""Sums, differences and groupings of ledger rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.ledger import (
    COMPUTE,
    WHOLE,
    Kind,
    Ledger,
    Peak,
    Row,
    Unknown,
    in_phases,
    ledger,
    said_bound,
)

BYTE_KINDS: tuple[Kind, ...] = ("parameter", "gradient", "optimizer", "input", "saved", "transient")

byte_rows = st.builds(
    Row,
    block=st.none() | st.integers(0, 11),
    operation=st.sampled_from(["a", "b", "c"]),
    kind=st.sampled_from(BYTE_KINDS),
    bytes=st.integers(0, 10**12),
)
flop_rows = st.builds(
    Row,
    block=st.none() | st.integers(0, 11),
    operation=st.sampled_from(["a", "b", "c", WHOLE]),
    kind=st.sampled_from(COMPUTE),
    flops=st.integers(0, 10**15),
)
ledgers = st.builds(
    Ledger, rows=st.lists(byte_rows | flop_rows, max_size=12).map(tuple), peak_bytes=st.integers(0, 10**12)
)

STEP = Ledger(
    (
        Row(None, "head.weight", "parameter", bytes=100),
        Row(None, "head.weight", "gradient", bytes=40),
        Row(None, "head.weight", "optimizer", bytes=80),
        Row(None, "images", "input", bytes=7),
        Row(10, "blocks.10.norm1", "saved", bytes=5),
        Row(2, "blocks.2.norm1", "saved", bytes=3),
        Row(2, "blocks.2.attn", "transient", bytes=1000),
        Row(2, "blocks.2.mlp.fc1", "forward", flops=20),
        Row(2, "blocks.2.mlp.fc1", "backward", flops=30),
        Row(None, "head", "forward", flops=1),
    ),
    peak_bytes=1200,
)


def test_each_total_sums_its_own_kind() -> None:
    assert STEP.parameter_bytes == 100
    assert STEP.gradient_bytes == 40
    assert STEP.optimizer_bytes == 80
    assert STEP.input_bytes == 7
    assert STEP.saved_bytes == 8


def test_held_is_what_lasts_and_nothing_transient() -> None:
    assert STEP.held_bytes == 100 + 40 + 80 + 7 + 8


def test_training_computes_forward_and_backward() -> None:
    assert STEP.forward_flops == 21
    assert STEP.train_flops == 51


def test_what_is_computed_again_counts_in_training_only() -> None:
    again = Ledger((*STEP.rows, Row(2, "blocks.2.mlp.fc1", "recompute", flops=20)))
    assert (again.forward_flops, again.train_flops) == (21, 71)
    assert again.by_block()["2"]["train_flops"] == 70
    assert again.by_kind()["recompute"] == 20


def test_blocks_come_in_numerical_order_and_the_rest_last() -> None:
    assert list(STEP.by_block()) == ["2", "10", "rest"]


def test_a_block_has_its_bytes_by_kind_and_its_flops_in_one() -> None:
    assert STEP.by_block()["2"] == {"saved": 3, "transient": 1000, "train_flops": 50}


def test_rows_of_one_operation_and_kind_add_up() -> None:
    twice = Ledger((Row(1, "norm", "saved", bytes=2), Row(1, "norm", "saved", bytes=3)))
    assert twice.by_operation() == {(1, "norm", "saved"): (5, 0)}


def test_a_difference_keeps_only_what_differs() -> None:
    mine = Ledger((Row(1, "norm", "saved", bytes=9), Row(1, "fc1", "saved", bytes=4)), peak_bytes=30)
    theirs = Ledger((Row(1, "norm", "saved", bytes=9), Row(1, "fc2", "saved", bytes=6)), peak_bytes=50)
    difference = mine - theirs
    assert set(difference) == {Row(1, "fc1", "saved", bytes=4), Row(1, "fc2", "saved", bytes=-6)}
    assert (difference.peak_bytes, difference.peak_is) == (-20, "difference")


def test_a_difference_does_not_mix_blocks_kinds_or_operations() -> None:
    rows = (Row(1, "a", "saved", bytes=1), Row(2, "a", "saved", bytes=1), Row(1, "a", "input", bytes=1))
    for one in rows:
        for other in rows:
            assert len((Ledger((one,)) - Ledger((other,))).rows) == (0 if one is other else 2)


def test_flops_that_one_knows_of_the_whole_step_only_are_compared_so() -> None:
    predicted = Ledger(
        (
            Row(1, "norm", "saved", bytes=9),
            Row(1, "fc1", "forward", flops=20),
            Row(2, "fc1", "forward", flops=10),
            Row(1, "fc1", "backward", flops=40),
            Row(1, "fc1", "recompute", flops=20),
        )
    )
    held = Row(1, "norm", "saved", bytes=9)
    forward, backward = Row(None, WHOLE, "forward", flops=30), Row(None, WHOLE, "backward", flops=60)
    assert (predicted - Ledger((held, forward, backward))).rows == ()
    assert (Ledger((held, forward, backward)) - predicted).rows == ()
    less = Ledger((held, forward, Row(None, WHOLE, "backward", flops=53)))
    assert (predicted - less).rows == (Row(None, WHOLE, "backward", flops=7),)
    assert (predicted - Ledger((forward, backward))).rows == (held,)


def test_empty_rows_are_left_out() -> None:
    full, empty = Row(1, "norm", "saved", bytes=2), Row(1, "add", "saved")
    assert ledger([full, empty]).rows == (full,)


def test_the_frame_has_one_line_a_row() -> None:
    frame = STEP.to_frame()
    assert list(frame.columns) == ["block", "operation", "kind", "bytes", "flops"]
    assert len(frame) == 10
    assert frame[frame.kind == "saved"].bytes.sum() == 8


def test_the_summary_says_how_far_to_trust_the_peak() -> None:
    summary = Ledger(STEP.rows, 1200, "allocator").summary()
    assert (summary["peak_bytes"], summary["peak_is"]) == (1200, "allocator")
    assert summary["held_bytes"] == STEP.held_bytes


def test_the_summary_says_when_the_peak_is_and_what_is_alive() -> None:
    peak = Peak(1200, "backward", 11, "blocks.11.mlp.fc2", {"parameter": 100, "transient": 1100})
    assert Ledger(STEP.rows, 1200, peak=peak).summary()["peak"] == {
        "bytes": 1200,
        "phase": "backward",
        "block": 11,
        "operation": "blocks.11.mlp.fc2",
        "alive": {"parameter": 100, "transient": 1100},
    }
    assert "peak" not in STEP.summary()


def test_the_summary_names_scratch_only_where_there_is_some() -> None:
    assert Ledger(STEP.rows, scratch_bytes=7).summary()["scratch_bytes"] == 7
    assert "scratch_bytes" not in STEP.summary()


@given(ledgers)
def test_by_block_and_by_kind_add_up_to_the_totals(step: Ledger) -> None:
    blocks, kinds = step.by_block().values(), step.by_kind()
    for kind in BYTE_KINDS:
        assert sum(block.get(kind, 0) for block in blocks) == kinds.get(kind, 0) == step.bytes_of(kind)
    computed = sum(block.get("train_flops", 0) for block in blocks)
    assert computed == sum(kinds.get(kind, 0) for kind in COMPUTE) == step.train_flops


@given(ledgers, ledgers)
def test_totals_of_a_difference_are_differences_of_totals(one: Ledger, other: Ledger) -> None:
    assert (one - other).held_bytes == one.held_bytes - other.held_bytes
    assert (one - other).train_flops == one.train_flops - other.train_flops


@given(ledgers)
def test_nothing_is_left_of_a_ledger_less_itself(step: Ledger) -> None:
    assert (step - step).rows == ()


def test_figures_that_count_something_unknown_are_bounds() -> None:
    unknown = Unknown("lstm", "rnn", 2, 1234, ("forward_flops",), "nobody counts it")
    step = ledger(STEP.rows, unknown=(unknown,))
    assert step.at_least == {"forward_flops", "train_flops"}
    assert step.summary()["at_least"] == ["forward_flops", "train_flops"]
    assert step.summary()["unknown"][0]["times"] == 2
    assert str(unknown) == (
        "lstm (2 calls, the first in rnn; up to 1,234 bytes given and made): nobody counts it; a bound from below: "
        "forward FLOPs"
    )
    assert not STEP.at_least and "at_least" not in STEP.summary()


def test_what_is_unknown_in_one_phase_is_unknown() -> None:
    unknown = Unknown("turn", "", 1, 8, ("peak_bytes",), "it depends on numbers")
    whole = in_phases([STEP, ledger((), unknown=(unknown,))], [0.5, 0.5])
    assert whole.at_least == {"peak_bytes", "reserved_bytes", "device_bytes"}


def test_a_mark_says_on_which_side_of_a_bound_a_figure_is() -> None:
    assert said_bound("peak_bytes", {"peak_bytes"}) == "≥ "
    assert said_bound("peak_bytes", {"train_flops"}) == said_bound("largest_batch", {"peak_bytes"}) == ""
    assert said_bound("largest_batch", {"counted_bytes"}) == "≤ "
