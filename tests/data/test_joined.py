"""Several data sets as one: shares, labels, files, and the parts that they had alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.data.joined import shares
from bsr_explorer.data.places import check_data, classes_of, count_classes
from bsr_explorer.errors import UserError
from tests.data.making import assert_disjoint, load, make_folder, parts, pixels, sizes

DATA = "tasks(digits, turned(digits))"


@given(st.data())
def test_shares_are_equal_as_far_as_can_be(draw: st.DataObject) -> None:
    each = draw.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=5))
    least, most = [low for low, _ in each], [low + more for low, more in each]
    total = draw.draw(st.integers(sum(least), sum(most)))
    found = shares(total, least, most)
    assert sum(found) == total
    assert all(low <= share <= high for low, share, high in zip(least, found, most, strict=True))
    free = [share for low, share, high in zip(least, found, most, strict=True) if low < share < high]
    assert not free or max(free) - min(free) <= 1


def test_tasks_have_their_own_parts_and_classes() -> None:
    splits, digits, turned = load(DATA), load("digits"), load("turned(digits)")
    assert dict(splits.tasks) == {"digits": 10, "turned(digits)": 4}
    assert sizes(splits) == tuple(a + b for a, b in zip(sizes(digits), sizes(turned), strict=True))
    assert (
        splits.classes[:2] == ("digits: 0", "digits: 1")
        and splits.classes[-1] == "turned(digits): 270 degrees"
    )
    assert splits.description == f"2 tasks: {digits.description}; {turned.description}"
    assert_disjoint(splits)
    for whole, first, second in zip(parts(splits), parts(digits), parts(turned), strict=True):
        assert whole.labels.tolist() == [*first.labels, *(second.labels + 10)]
        for items, part, offset in (([0, 5], first, 0), ([3, 1], second, len(first))):
            assert (pixels(whole, [item + offset for item in items]) == pixels(part, items)).all()
    assert sum(splits.contents.classes["train"].values()) == len(splits.train)


def test_sizes_are_shared_equally() -> None:
    splits = load(DATA, train_size=101, val_size=40)
    assert [int((splits.train.labels < 10).sum()), int((splits.train.labels >= 10).sum())] == [51, 50]
    assert int((splits.validation.labels < 10).sum()) == 20


@pytest.mark.parametrize("flag", ["train_size", "val_size"])
@pytest.mark.parametrize("size", [13, 10**6])
def test_a_size_out_of_range_is_refused(flag: str, size: int) -> None:
    key = f"--{flag.replace('_', '-')}"
    with pytest.raises(UserError, match=rf"{key}: {size} images of 2 tasks is out of range; choose from 14"):
        load(DATA, **{flag: size})


def test_tasks_take_all_images_where_none_are_held_out() -> None:
    splits = load(DATA, hold_out=False)
    assert splits.validation is splits.test
    assert (splits.test.labels >= 10).any()
    with pytest.raises(UserError, match="--train-size: 100 is not allowed with --protocol authors"):
        load(DATA, hold_out=False, train_size=100)


def test_image_folders_are_tasks_and_their_files_are_named_after_them(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        make_folder(tmp_path / name, {"a": 12, "b": 12})
    data = f"tasks({tmp_path / 'cats'}, swapped({tmp_path / 'dogs'}))"
    check_data(data, tmp_path)
    assert classes_of(data) == (2, 7) and count_classes(data) == 9
    splits = load(f"tasks({tmp_path / 'cats'}, {tmp_path / 'dogs'})")
    names = {name for part in parts(splits) for name in part.files().values()}
    assert {name.split("/")[0] for name in names} == {"cats", "dogs"}
    assert len(names) == 48
    gone = sorted(splits.train.files().values())[0]
    fewer = load(f"tasks({tmp_path / 'cats'}, {tmp_path / 'dogs'})", skip=[gone])
    assert gone not in {name for part in parts(fewer) for name in part.files().values()}
    assert sum(sizes(fewer)) == 47


def test_equal_images_have_equal_identities() -> None:
    one, again, other = load(DATA), load(DATA), load(DATA, split_seed=1)
    assert one.train.identity() == again.train.identity() != other.train.identity()
    shuffled = np.random.default_rng(0).permutation(len(one.train))
    assert (one.train._fingerprint(shuffled)) != one.train._fingerprint(np.arange(len(one.train)))


def test_text_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data: 'python' in 'tasks\(digits, python\)' is text"):
        check_data("tasks(digits, python)", tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("tasks(digits, letters)", "--data: 'letters' is neither a data set nor a folder"),
        ("turned(letters)", "--data: 'letters' is neither a data set nor a folder"),
    ],
)
def test_unknown_data_within_is_named(data: str, said: str, tmp_path: Path) -> None:
    for ask in (lambda: check_data(data, tmp_path), lambda: classes_of(data), lambda: load(data)):
        with pytest.raises(UserError, match=said):
            ask()
