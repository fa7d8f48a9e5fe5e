"""Methods that choose parameters, or blocks."""

from __future__ import annotations

import pytest

from bsr_explorer.errors import UserError
from tests.methods.doubles import Only, Touched, head


def test_a_subset_freezes_all_but_the_chosen() -> None:
    tape = Only().rewrite(head())
    assert {name: p.trains for name, p in tape.parameters.items()} == {
        "head.weight": True,
        "head.bias": False,
    }


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"only\(parameter='tail'\) trains nothing"):
        Only("tail").rewrite(head())


def test_blocks_are_all_or_those_that_are_named_in_order() -> None:
    assert Touched().chosen(3) == (0, 1, 2)
    assert Touched((2, 0)).chosen(3) == (0, 2)
    assert str(Touched()) == "touched"
    assert str(Touched((2, 0))) == "touched(blocks=(0, 2))"


def test_all_blocks_by_name_are_all_blocks() -> None:
    assert Touched((0, 1, 2)).canonical(3) == Touched()
    assert Touched((0, 1, 2)).canonical(4) == Touched((0, 1, 2))
    assert Touched().canonical(3) == Touched()


def test_a_chosen_block_that_the_model_does_not_have_is_refused() -> None:
    says = (
        r"--method: touched\(blocks=…\): block 3 is out of range; the model has 3 blocks, 0 to 2 \(0-based\)"
    )
    for ask in (Touched((1, 3)).chosen, Touched((1, 3)).canonical):
        with pytest.raises(UserError, match=says):
            ask(3)
