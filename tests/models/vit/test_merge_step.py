"""Which operations merge tokens on a tape, and which add their sizes to attention."""

from __future__ import annotations

import pytest

from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.models.vit.merge_step import merge_tokens
from bsr_explorer.models.vit.step import step_tape

PLAIN = step_tape(KNOWN["deit_tiny_patch16_224"], 2, "fused")


@pytest.mark.parametrize("proportional", [False, True])
def test_each_block_merges_and_attention_of_all_but_the_first_has_sizes(proportional: bool) -> None:
    tape = merge_tokens(PLAIN, 8, proportional)
    attention = [op for op in tape if op.kind == "attention"]
    assert [len(op.reads) for op in attention] == [1] + [1 + proportional] * 11
    assert [tape.tensors[op.writes].shape[1] for op in attention] == [197 - 8 * block for block in range(12)]
    added = [op for op in tape if op.kind == "log_sizes"]
    assert [op.block for op in added] == (list(range(1, 12)) if proportional else [])
    assert all(tape.tensors[op.writes].shape == (2, 1, 1, 197 - 8 * (op.block or 0)) for op in added)
    assert sum(op.kind == "merge_tokens" for op in tape) == 12


def test_sizes_go_on_where_nothing_is_left_to_merge() -> None:
    tape = merge_tokens(PLAIN, 195, proportional=True)
    merges = [op.block for op in tape if op.kind == "merge_tokens"]
    assert merges[-1] != 11
    assert [op.block for op in tape if op.kind == "log_sizes"] == list(range(1, 12))
