"""Arguments that differ from layer to layer: how they are read, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.methods.by_layer import check_blocks, checked, layers_of, value_in


def _positive(written: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"--method: mine({written}): not allowed")
    return value


def test_one_value_is_that_of_all_layers() -> None:
    assert checked("mine", "r", 3, _positive) == 3
    assert value_in(3, 7, "fc1") == 3
    check_blocks("mine", "r", 3, 1)


def test_a_dictionary_is_in_the_models_order_and_a_blocks_layer_goes_before() -> None:
    given = checked("mine", "r", {"11.fc2": 1, "fc2": 2, "3.fc1": 3}, _positive)
    assert isinstance(given, dict)
    assert list(given) == ["fc2", "3.fc1", "11.fc2"]
    assert layers_of(given) == ("fc1", "fc2")
    assert [value_in(given, *place) for place in ((11, "fc2"), (3, "fc2"), (3, "fc1"))] == [1, 2, 3]
    assert value_in(given, 2, "fc1") is None
    check_blocks("mine", "r", given, 12)
    with pytest.raises(
        UserError, match=r"mine\(r=…\): '11.fc2' names no block; the model has 8 blocks, 0 to 7"
    ):
        check_blocks("mine", "r", given, 8)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"mine\(r=\{\}\): no layer is named"),
        ({"head": 1}, r"mine\(r=\{…\}\): unknown value 'head'.*qkv"),
        ({"last.fc2": 1}, "'last.fc2' must be a layer, such as 'fc2', or a block"),
        ({"fc2": 0}, r"mine\(r=\{'fc2': 0\}\): not allowed"),
        (0, r"mine\(r=0\): not allowed"),
    ],
)
def test_others_are_refused(given: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked("mine", "r", given, _positive)
