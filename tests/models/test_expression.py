"""Names of models that say their numbers."""

from __future__ import annotations

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.models.expression import Said, check_number, check_whole, name_in, parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net", Said("net", None, {})),
        ("net()", Said("net", None, {})),
        ("net(deit_s)", Said("net", "deit_s", {})),
        ("net('a.b', sizes=(1, 2), rate=0.5)", Said("net", "a.b", {"sizes": (1, 2), "rate": 0.5})),
    ],
)
def test_a_name_is_read(text: str, said: Said) -> None:
    assert parsed(text, ("sizes", "rate")) == said
    assert name_in(text) == "net"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("net(", "cannot read"),
        ("net(a, b)", "expected name"),
        ("net(3)", "3 is no name of a model"),
        ("net(size=open('x'))", "cannot read"),
        ("net(sise=3)", r"unknown value 'sise' \(did you mean 'size'\?\)"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        parsed(text, ("size",))


@pytest.mark.parametrize("value", [True, 1.5, 0, "1"])
def test_whole_numbers_are_checked(value: object) -> None:
    check_whole("net", "size", 1)
    with pytest.raises(UserError, match=r"net: size=.* must be a whole number of at least 1"):
        check_whole("net", "size", value)


@pytest.mark.parametrize("value", [True, "1", 0, -1.0, float("nan"), float("inf")])
def test_numbers_are_checked(value: object) -> None:
    check_number("net", "rate", 0.5)
    with pytest.raises(UserError, match=r"net: rate=.* must be a number above 0"):
        check_number("net", "rate", value)
