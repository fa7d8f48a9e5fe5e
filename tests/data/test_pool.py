"""The images that a data set comes with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.errors import UserError
from tests.data.making import load, make_folder, parts, sizes


def test_files_that_are_named_are_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 3, "test/b": 3})
    skip = ("train/a/3.png", "test/b/0.png", "train/a/77.png")
    splits = load(str(tmp_path), skip=skip)
    assert sum(sizes(splits)) == 24 - 2
    names = {name for part in parts(splits) for name in part.files().values()}
    assert len(names) == 22
    assert not names & set(skip)
    assert splits.left_out == {"damaged": 2}
    with pytest.raises(UserError, match=r"class 'a' .* \(1 of at least 2; left out: 8 damaged\)"):
        load(str(tmp_path), skip=[f"train/a/{number}.png" for number in range(1, 9)])


def test_images_in_memory_have_no_files() -> None:
    assert load("digits").train.files() == {}
