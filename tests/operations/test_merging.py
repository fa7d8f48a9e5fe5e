"""Merging tokens: how many, what is made on the way, and what backward keeps of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded
from bsr_explorer.operations.merging import first_places, halves, merged_tokens
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

B, H, N, D, R = 2, 3, 9, 12, 3


def _tape(sized: bool = False) -> Tape:
    """The class token and 8 patches, of which 3 are merged."""
    attrs = {"prefix": 1, "heads": H, "r": R, "detached": True}
    sizes = ("sizes",) if sized else ()
    inputs = [Tensor("qkv", (B, N, 3 * D), "qkv", role="input"), Tensor("x", (B, N, D), "x")]
    if sized:
        inputs.append(Tensor("sizes", (B, N), "sizes", role="input"))
    ops = (
        Op("merge", "match_tokens", 0, ("qkv",), "into", attrs={**attrs, "dtype": "int32"}),
        Op("merge", "merge_sizes", 0, ("into", *sizes), "merged", attrs={**attrs, "dtype": "fp32"}),
        Op("merge", "merge_tokens", 0, ("x", "into", "merged", *sizes), "y", attrs={"r": R}),
    )
    return Tape(tuple(inputs), {}, ops)


@pytest.mark.parametrize(
    ("tokens", "prefix", "expected"),
    [(197, 1, (98, 98)), (10, 1, (4, 5)), (9, 0, (5, 4)), (12, 2, (5, 5)), (1, 1, (0, 0)), (2, 1, (0, 1))],
)
def test_patches_are_divided_by_turns_of_all_tokens(
    tokens: int, prefix: int, expected: tuple[int, int]
) -> None:
    assert halves(tokens, prefix) == expected
    even, odd = first_places(prefix)
    assert (even % 2, odd % 2) == (0, 1)
    assert min(even, odd) == prefix


@pytest.mark.parametrize(
    ("tokens", "r", "merged"), [(197, 8, 8), (197, 200, 98), (10, 5, 4), (2, 1, 0), (1, 1, 0)]
)
def test_at_most_half_of_the_patches_is_merged(tokens: int, r: int, merged: int) -> None:
    assert merged_tokens(tokens, 1, r) == merged
    assert merged <= halves(tokens, 1)[0]


@pytest.mark.parametrize("sized", [True, False])
def test_a_merge_keeps_places_and_shares(passes: Passes, sized: bool) -> None:
    forward, backward = passes(_tape(sized))
    left: Counter[str] = Counter()
    for name, change in forward:
        left[name] += change
    kept = {"into": B * N * 4, "merge:shares": B * N * 4}
    assert {name: size for name, size in (+left).items() if name in kept} == kept
    assert sum(left[name] for name in left if name.startswith("merge:")) == B * N * 4
    assert ("merge:similarities", B * 4 * 4 * 4) in forward
    assert [change for change in backward if change[1] > 0] == [("gradient 1 of x", B * N * D * 4)]


def test_similarities_are_products_one_head_wide() -> None:
    computed = [count for *_, count in Recorded.of(_tape(), True).computed() if count]
    assert computed == [2 * B * 4 * 4 * (D // H)]
