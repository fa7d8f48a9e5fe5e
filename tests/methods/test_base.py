"""What all methods share: expressions, and what follows of them."""

from __future__ import annotations

from bsr_explorer.methods import Bsr, Full, Last, parse_method


def test_an_expression_shows_arguments_but_quiet_ones_only_when_changed() -> None:
    assert str(Full()) == "full"
    assert str(Bsr((1,), {})) == "bsr(blocks=(1,), keep={}, fuse=True)"
    assert str(Bsr((1,), {}, head=False)) == "bsr(blocks=(1,), keep={}, fuse=True, head=False)"


def test_a_method_is_shown_as_its_expression() -> None:
    assert repr(Last(3)) == "last(k=3)"


def test_methods_of_one_expression_are_equal_and_hash_alike() -> None:
    assert len({Last(3), Last(3), parse_method("last(3)"), Last(2)}) == 2
