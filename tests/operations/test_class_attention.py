"""The class token's attention: what it keeps and makes, with a graph and without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

B, H, N, D = 2, 3, 5, 12

n = B * N * D * 4


def _class_attention(path: str, detached: bool) -> Tape:
    attrs = {"heads": H, "prefix": 1, "path": path, "detached": detached}
    qkv = Tensor("qkv", (B, N, 3 * D), "qkv")
    return Tape((qkv,), {}, (Op("drop", "class_attention", 0, ("qkv",), "scores", attrs=attrs),))


def test_class_attention_without_a_graph_keeps_nothing_and_makes_one_row_a_head(passes: Passes) -> None:
    forward, backward = passes(_class_attention("math", detached=True))
    assert dict(change for change in forward if change[1] > 0) == {
        "drop:query": B * D * 4,
        "drop:key": n,
        "drop:products": B * H * N * 4,
        "drop:softmax": B * H * N * 4,
        "scores": B * (N - 1) * 4,
    }
    assert sum(change for name, change in forward if name.startswith("drop:")) == 0
    assert backward == []


@pytest.mark.parametrize("path", ["fused", "math"])
def test_class_attention_keeps_its_query_its_softmax_and_the_keys(passes: Passes, path: str) -> None:
    forward, backward = passes(_class_attention(path, detached=False))
    left: Counter[str] = Counter()
    for name, change in forward:
        left[name] += change
    kept = {"drop:query": B * D * 4, "drop:softmax": B * H * N * 4}
    if path == "math":  # as they were copied; a fused kernel has kept qkv, of which they are a part
        kept["drop:key"] = n
    assert +left == {**kept, "scores": B * (N - 1) * 4}
    assert [name for name, _ in backward if name == "drop:key again"] == ["drop:key again"] * 2 * (
        path == "fused"
    )
    assert ("gradient 1 of qkv", 3 * n) in backward
