"""Training the last blocks."""

from __future__ import annotations

from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Last


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("blocks.11.norm1.weight", True),
        ("blocks.10.mlp.fc1.weight", True),
        ("blocks.9.mlp.fc1.weight", False),
        ("blocks.1.norm1.weight", False),
        ("norm.weight", True),
        ("head.bias", True),
        ("cls_token", False),
        ("norm_pre.weight", False),
    ],
)
def test_the_last_blocks_the_norm_and_the_head_train(name: str, trains: bool) -> None:
    assert Last(2).trains(name, depth=12) is trains


def test_more_blocks_than_there_are_name_the_range() -> None:
    Last(12).check(12)
    with pytest.raises(UserError, match=r"last\(k=13\): the model has 12 blocks, so k must be 1 to 12"):
        Last(13).check(12)


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "3", None])
def test_k_is_a_whole_number_from_1(k: Any) -> None:
    with pytest.raises(UserError, match=r"last\(k=.*\): k must be a whole number of at least 1"):
        Last(k)


def test_it_is_bsr_of_those_blocks_without_a_drop() -> None:
    assert Last(2).canonical(12) == Bsr((10, 11), {}, fuse=False)


@pytest.mark.parametrize("depth", [3, 12])
def test_the_same_parameters_train_as_in_its_canonical_form(depth: int) -> None:
    last, canonical = Last(3), Last(3).canonical(depth)
    assert isinstance(canonical, Bsr)
    names = ["cls_token", "norm.weight", "fc_norm.bias", "head.weight", "norm_pre.bias"]
    names += [f"blocks.{block}.norm1.weight" for block in range(depth)]
    assert [last.trains(n, depth) for n in names] == [canonical.trains(n, depth) for n in names]
