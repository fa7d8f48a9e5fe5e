"""Scores that need no class token: what they make, and that they keep nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from bsr_explorer.cost.step import Recorded
from bsr_explorer.models.lowering import lower
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

B, H, N, D = 2, 3, 5, 12


def _scores(kind: str, width: int, **attrs: Any) -> Tape:
    attrs = {"prefix": 1, "detached": True, **attrs}
    x = Tensor("x", (B, N, width), "x")
    return Tape((x,), {}, (Op("drop", kind, 0, ("x",), "scores", attrs=attrs),))


@pytest.mark.parametrize(("kind", "attrs"), [("token_norms", {}), ("random_scores", {"dtype": "fp32"})])
def test_lengths_and_chance_take_one_number_a_patch(passes: Passes, kind: str, attrs: dict[str, Any]) -> None:
    tape = _scores(kind, D, **attrs)
    forward, backward = passes(tape)
    assert {name: change for name, change in forward if change > 0} == {"scores": B * (N - 1) * 4}
    assert backward == []
    assert all(count == 0 for *_, count in Recorded.of(tape, True).computed())


def test_the_mean_attention_takes_a_softmax_of_one_head_after_another(passes: Passes) -> None:
    forward, backward = passes(_scores("mean_attention", 3 * D, heads=H))
    made = Counter(name for name, change in forward if change > 0)
    assert made == {
        "drop:query": H,
        "drop:products": H,
        "drop:softmax": H,
        "drop:total": 1,
        "drop:received": H - 1,
        "scores": 1,
    }
    assert ("drop:query", B * N * D // H * 4) in forward
    assert ("drop:softmax", B * N * N * 4) in forward
    assert sum(change for name, change in forward if name.startswith("drop:")) == 0
    assert backward == []


def test_the_mean_attention_computes_all_queries_times_all_keys() -> None:
    computed = Recorded.of(_scores("mean_attention", 3 * D, heads=H), True).computed()
    assert [count for *_, count in computed if count] == [2 * B * N * N * D]


def test_chance_is_drawn_in_32_bits_and_tokens_stay_as_they_are() -> None:
    drop = Op("drop", "drop_tokens", 0, ("x", "scores"), "y", attrs={"prefix": 1, "keep": 0.5, "fuse": False})
    tape = _scores("random_scores", D, dtype="fp32")
    tape = Tape(tape.inputs, {}, (*tape.ops, drop))
    narrow = lower(tape, "bf16", "cpu").tensors
    assert (narrow["scores"].dtype, narrow["y"].dtype) == ("fp32", "bf16")
