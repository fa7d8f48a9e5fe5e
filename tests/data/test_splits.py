"""The data sets: their parts, their files, their pixels, and what is said when something is wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.splits import stratified_order
from bsr_explorer.errors import UserError
from tests.data.making import assert_disjoint, identities, load, parts, sizes

# --- the stratified order -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(0, 2**31), st.data())
def test_every_beginning_of_the_order_is_stratified(
    labels: list[int], seed: int, draw: st.DataObject
) -> None:
    array = np.asarray(labels, dtype=np.int64)
    order = stratified_order(array, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert (order == stratified_order(array, seed)).all()

    n = draw.draw(st.integers(0, len(labels)))
    whole, beginning = Counter(labels), Counter(array[order[:n]].tolist())
    for label, count in whole.items():
        share = count / len(labels)
        assert (n - len(whole)) * share - 1e-9 <= beginning[label] <= n * share + 1 + 1e-9
    assert len(beginning) == len(whole) or n < len(whole)


def test_the_order_depends_on_the_seed_and_favours_no_class() -> None:
    labels = np.repeat(np.arange(10), 20)
    assert (stratified_order(labels, 0) != stratified_order(labels, 1)).any()
    first = {int(labels[stratified_order(labels, seed)[0]]) for seed in range(50)}
    assert len(first) > 5


# --- digits ---------------------------------------------------------------------------------------------


def test_digits_are_split_60_20_20() -> None:
    splits = load("digits")
    assert sizes(splits) == DATASETS["digits"].sizes
    assert splits.num_classes == 10
    assert splits.description == "digits: train 1078 / validation 359 / test 360, stratified, split seed 0"
    assert_disjoint(splits)
    for part in parts(splits):
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() >= 0.09 * len(part) and counts.max() <= 0.115 * len(part)


def test_the_split_follows_from_the_seed() -> None:
    first, again, other = load("digits"), load("digits"), load("digits", split_seed=1)
    for one, same, different in zip(parts(first), parts(again), parts(other), strict=True):
        assert one.indices.tolist() == same.indices.tolist()
        assert identities(one) != identities(different)
    assert sizes(first) == sizes(other)


def test_subsets_are_nested_and_leave_the_other_parts_alone() -> None:
    whole = load("digits")
    small, large = (load("digits", train_size=n, val_size=n // 2) for n in (50, 200))
    assert sizes(small) == (50, 25, 360) and sizes(large) == (200, 100, 360)
    assert identities(small.train) < identities(large.train) < identities(whole.train)
    assert identities(small.validation) < identities(large.validation) < identities(whole.validation)
    assert identities(small.test) == identities(whole.test)
    assert np.bincount(small.train.labels).tolist() == [5] * 10
    assert "train 50 of 1078 / validation 25 of 359 / test 360" in small.description


def test_a_large_validation_takes_images_from_train_and_never_from_test() -> None:
    usual, large = load("digits"), load("digits", val_size=600)
    assert sizes(large) == (1797 - 360 - 600, 600, 360)
    assert identities(usual.validation) < identities(large.validation)
    assert identities(usual.test) == identities(large.test)
    assert_disjoint(large)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_size": 1079}, r"--train-size: 1079 .* choose from 10 .* to 1078"),
        ({"train_size": 9}, r"--train-size: 9 .* choose from 10 \(one of each class\)"),
        ({"val_size": 0}, r"--val-size: 0 .* choose from 10"),
        ({"val_size": -1}, r"--val-size: -1 "),
        ({"val_size": 1437}, r"--val-size: 1437 .* leaves a class with none to train on"),
        ({"val_size": 600, "train_size": 1000}, r"--train-size: 1000 .* to 837"),
        ({"augment": "flop"}, r"--augment: unknown value 'flop' \(did you mean 'flip'\?\)"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load("digits", **options)
    assert "\n" not in str(caught.value)


# --- protocols ------------------------------------------------------------------------------------------


def test_without_images_held_out_all_are_trained_on_and_the_test_set_judges() -> None:
    usual, whole = load("digits"), load("digits", hold_out=False)
    assert sizes(whole) == (1797 - 360, 360, 360)
    assert identities(whole.train) == identities(usual.train) | identities(usual.validation)
    assert whole.validation is whole.test and identities(whole.test) == identities(usual.test)
    assert set(whole.contents.classes) == {"train", "test"}
    assert whole.description == (
        "digits: train 1437 / test 360, test cut from train, stratified, none held out for validation, split seed 0"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"train_size": 1000},
            "--train-size: 1000 is not allowed with --protocol authors, which takes all 1437 train",
        ),
        (
            {"val_size": 100},
            "--val-size: 100 is not allowed with --protocol authors, which takes all 360 test images",
        ),
    ],
)
def test_a_part_of_the_images_is_no_protocol(options: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load("digits", hold_out=False, **options)
    assert sizes(load("digits", hold_out=False, train_size=1437, val_size=360)) == (1437, 360, 360)
