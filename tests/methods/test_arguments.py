"""Hyperparameters: how they are written, and what is refused of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Full
from bsr_explorer.methods.arguments import bare, check_flags, check_range, checked_blocks, quiet
from tests.methods.doubles import Touched


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ((-1,), "-1 is no block index"),
        ((True,), "True is no block index"),
        ((1.0,), "1.0 is no block index"),
        ("3", "'3' is no block index"),
        ({1: 2}, r"\{1: 2\} is no block index"),
        ((2, 1, 2), "block 2 is named twice"),
    ],
)
def test_what_is_no_block_index_is_refused(blocks: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"--method: touched\(blocks=…\): {says}"):
        Touched(blocks)


def test_one_block_needs_no_parentheses() -> None:
    assert Touched(2) == Touched((2,))  # type: ignore[arg-type]


@given(st.sets(st.integers(0, 50)).flatmap(lambda blocks: st.permutations(sorted(blocks))))
def test_block_indices_come_in_order(blocks: list[int]) -> None:
    assert checked_blocks("touched", blocks) == tuple(sorted(blocks))


def test_a_hint_comes_after_what_is_out_of_range() -> None:
    check_range("touched", "keep", [0, 2], depth=3)
    with pytest.raises(
        UserError, match=r"touched\(keep=…\): block 3 is out of range; .*0 to 2 \(0-based\); so"
    ):
        check_range("touched", "keep", [0, 3, 5], depth=3, hint="; so")


@dataclass(frozen=True, eq=False, repr=False)
class Written(Full):
    """With an argument of each kind."""

    name: ClassVar[str] = "written"

    rates: tuple[float, ...] = bare((0.5,), each=True)
    slow: bool = quiet(False)


def test_a_flag_is_true_or_false() -> None:
    check_flags(Written(), ("slow",))
    with pytest.raises(UserError, match=r"written\(slow=1\): slow must be True or False"):
        check_flags(Written(slow=1), ("slow",))  # type: ignore[arg-type]


def test_quiet_arguments_are_written_when_changed_and_bare_ones_without_a_name() -> None:
    assert str(Written()) == "written(0.5)"
    assert str(Written((0.5, 0.7), True)) == "written(0.5, 0.7, slow=True)"


def test_a_bare_dictionary_is_each_methods_own() -> None:
    @dataclass
    class Two:
        keep: dict[int, float] = bare({3: 0.5})  # noqa: RUF009

    one, other = Two(), Two()
    one.keep[4] = 0.7
    assert other.keep == {3: 0.5}
