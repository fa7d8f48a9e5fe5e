"""What a user reads: one line with the key, the value, the choices and the nearest of them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from bsr_explorer.errors import UserError, nearest, one_line, require, unknown, unwritable


def test_nearest_gives_the_most_alike_first() -> None:
    assert nearest("deit_tt", ["vit_b", "deit_s", "deit_t"], count=2) == ["deit_t", "deit_s"]


def test_nearest_gives_nothing_where_nothing_is_alike() -> None:
    assert nearest("xyz", ["fused", "math"]) == []


def test_unknown_names_key_value_nearest_and_choices() -> None:
    text = str(unknown("--attention", "fusd", ("fused", "math")))
    assert text == "--attention: unknown value 'fusd' (did you mean 'fused'?); choose from fused, math"


def test_unknown_guesses_nothing_where_nothing_is_alike() -> None:
    assert str(unknown("key", 7, ["fused", "math"])) == "key: unknown value 7; choose from fused, math"


def test_choices_may_be_any_iterable() -> None:
    assert "choose from a, b" in str(unknown("key", "c", iter(("a", "b"))))


def test_a_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as error:
        require("ray", "--cluster:", "cluster", ", or leave it out")
    assert str(error.value) == (
        '--cluster: needs ray; install it with pip install "bsr-explorer[cluster]", or leave it out'
    )
    require("sys", "--anything", "any")


def test_what_an_exception_says_takes_one_line() -> None:
    assert one_line(OSError("not\n  found")) == "not found"
    assert one_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EROFS, "is on a read-only file system"),
        (errno.ENOSPC, "cannot be written (No space left on device)"),
    ],
)
def test_why_something_cannot_be_written(code: int, why: str) -> None:
    assert unwritable(OSError(code, os.strerror(code)), Path("a")) == f"a {why}"
