"""What ``--data`` may say beside a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bsr_explorer.data.expression import MADE, Tasks, in_paths, made_in, tasks_in
from bsr_explorer.errors import UserError


def test_tasks_are_read_with_what_stands_in_their_parentheses() -> None:
    assert tasks_in("tasks(digits, turned(fashion_mnist),photos/cats)") == Tasks(
        ("digits", "turned(fashion_mnist)", "photos/cats")
    )
    assert tasks_in("tasks(a, b, batches=by_task)") == Tasks(("a", "b"), by_task=True)
    assert tasks_in("tasks(a, b, batches=mixed)") == Tasks(("a", "b"))
    assert tasks_in("digits") is None
    assert tasks_in("turned(digits)") is None


def test_a_data_set_may_be_made_of_another() -> None:
    assert made_in("turned(fashion_mnist)") == ("turned", "fashion_mnist")
    assert made_in("sums( digits )") == ("sums", "digits")
    assert made_in("digits") is None
    assert len(MADE["swapped"].classes(10)) == 7
    assert MADE["sums"].classes(10)[-1] == "18"


def test_image_folders_are_called_by_their_last_part_unless_two_are() -> None:
    assert Tasks(("photos/cats", "digits")).names == ("cats", "digits")
    assert Tasks(("a/cats", "b/cats")).names == ("a/cats", "b/cats")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("tasks()", "names no data set; write tasks(digits, fashion_mnist)"),
        ("tasks(digits)", "has one task; name it directly: digits"),
        ("tasks(digits, batches=by_task)", "has one task; name it directly: digits"),
        ("tasks(digits, fashion_mnist, digits)", "digits stands twice in"),
        ("tasks(digits, tasks(a, b))", "'tasks(a, b)' stands within"),
        (
            "tasks(digits, fashion_mnist, batches=each)",
            "batches: unknown value 'each'; choose from mixed, by_task",
        ),
        ("tasks(digits, fashion_mnist,)", "cannot read"),
        ("tasks(digits, turned(fashion_mnist)", "cannot read"),
    ],
)
def test_tasks_that_cannot_be(data: str, said: str) -> None:
    with pytest.raises(UserError, match="^--data: .*" + re.escape(said)):
        tasks_in(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            "turn(digits)",
            "unknown value 'turn' (did you mean 'turned'?); choose from tasks, turned, swapped, sums",
        ),
        ("turned()", "turned is made of one data set, not of nothing; write turned(digits)"),
        ("turned(swapped(digits))", "turned is made of one data set, not of swapped(…)"),
        ("sums(fashion_mnist)", "sums is made of digits; write sums(digits)"),
    ],
)
def test_what_cannot_be_made(data: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        made_in(data)


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos(2024)"
    folder.mkdir()
    assert made_in(str(folder)) is None and tasks_in(str(folder)) is None


def test_a_name_for_a_folder_of_results() -> None:
    assert in_paths("tasks(digits, turned(fashion_mnist))") == "tasks-digits-turned-fashion_mnist"
    assert in_paths("some/photos") == "photos"
