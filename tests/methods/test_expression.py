"""Expressions: what is read, what is refused and where, and that nothing is ever evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.methods import (
    METHODS,
    BitFit,
    Bsr,
    Checkpoint,
    Full,
    Last,
    Linear,
    parse_method,
    parse_methods,
)
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.methods.expression import parse
from bsr_explorer.tape import Tape


@dataclass(frozen=True, eq=False)
class Quantised(Method):
    """A method that chooses no parameters, so that it composes."""

    bits: int = 8

    name: ClassVar[str] = "quantised"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def rewrite(self, tape: Tape) -> Tape:
        """As it is."""
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model

    @property
    def at_inference(self) -> None:
        """Nothing."""


def _refusal(text: str) -> str:
    with pytest.raises(UserError) as error:
        parse_method(text)
    message = str(error.value)
    assert message.startswith("--method: ")
    return message


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("full", Full()),
        ("bitfit()", BitFit()),
        ("last(3)", Last(3)),
        ("last(k=2)", Last(2)),
        ("  last( k = 2 ) ", Last(2)),
        ("bsr", Bsr((3, 7, 11), {3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)),
        ("bsr((1, 2), {0: 0.25}, False)", Bsr((1, 2), {0: 0.25}, fuse=False)),
        ("bsr((1,), keep={})", Bsr((1,), {})),
        ("bsr(blocks=[2, 1], keep={})", Bsr((1, 2), {})),
        ("bsr(blocks=(), keep={5: 1})", Bsr((), {5: 1.0})),
    ],
)
def test_expressions_are_read(text: str, method: Method) -> None:
    assert parse_method(text) == method


def test_a_plus_composes_in_order() -> None:
    methods: dict[str, type[Method]] = {**METHODS, "quantised": Quantised}
    method = parse("quantised(4) + last(2) + checkpoint", methods)
    assert isinstance(method, Composed)
    assert method.parts == (Quantised(4), Last(2), Checkpoint())
    assert parse(str(method), methods) == method


@pytest.mark.parametrize(("text", "column"), [("bsr($)", 5), ("bsr(", 4), ("bsr; full", 4), ("last(3))", 8)])
def test_a_syntax_error_says_its_column(text: str, column: int) -> None:
    assert f"cannot read {text!r} at column {column} (" in _refusal(text)


def test_a_column_counts_in_the_text_that_is_shown() -> None:
    assert "cannot read 'bsr($)' at column 5 (" in _refusal("   bsr($)")


@pytest.mark.parametrize(("text", "column"), [("", 1), ("bsr+", 5), ("last(2) + ", 10)])
def test_a_text_that_stops_too_early_says_where_more_was_expected(text: str, column: int) -> None:
    assert f"at column {column} (" in _refusal(text)


@pytest.mark.parametrize("text", ["", "  ", "bsr+", "bsr\n\n+full", "def bsr(): 1"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    assert "cannot read" in _refusal(text)


@pytest.mark.parametrize("text", ["1", "'bsr'", "-bsr", "bsr.x", "bsr()()", "bsr*2", "bsr-full", "lambda: 0"])
def test_what_is_no_name_of_a_method_is_refused_at_its_column(text: str) -> None:
    assert f"at column 1: expected the name of a method ({', '.join(METHODS)})" in _refusal(text)


def test_the_second_of_two_methods_is_named_by_its_own_column() -> None:
    assert "at column 7: expected the name" in _refusal("bsr + 1")


def test_an_unknown_method_names_the_nearest() -> None:
    assert "unknown value 'brs' (did you mean 'bsr'?)" in _refusal("brs(blocks=(1,))")


def test_an_unknown_argument_names_those_that_there_are() -> None:
    assert "bsr has no argument 'block'; it takes blocks, keep, fuse, head, norm" in _refusal("bsr(block=1)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("full(1)", "full takes no arguments, and got 1 values"),
        ("last(1, 2)", "last takes k, and got 2 values"),
        ("last(1, k=2)", "argument 'k' is given twice"),
        ("bsr(fuse=True, fuse=False)", "argument 'fuse' is given twice"),
        ("bsr(**{'fuse': False})", "has no argument '**'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(text: str, says: str) -> None:
    assert says in _refusal(text)


@pytest.mark.parametrize(
    "keep",
    [
        "{3: 0.5, 3: 0.25}",
        "{3: 0.5, 0x3: 0.25}",
        "{3: 0.5, 3.0: 0.25}",
        "{1: 0.5, True: 0.25}",
    ],
)
def test_a_block_that_keep_names_twice_is_refused(keep: str) -> None:
    assert "twice" in _refusal(f"bsr(keep={keep})")


@pytest.mark.parametrize("value", ["{[1]: 0.5}", "{{}: 0.5}"])
def test_a_key_that_is_no_key_is_refused(value: str) -> None:
    _refusal(f"bsr(keep={value})")


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("bsr(blocks=__import__('os'))", 12),
        ("bsr(blocks=(1, depth))", 12),
        ("bsr(blocks=range(3))", 12),
        ("bsr(blocks=tuple(3 for _ in ()))", 12),
        ("bsr(fuse=not True)", 10),
        ("last(1 + 1)", 6),
        ("bsr(*(1,))", 5),
    ],
)
def test_only_literals_are_read(text: str, column: int) -> None:
    message = _refusal(text)
    assert f"at column {column}: " in message
    assert "must be a literal value" in message


def test_an_expression_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for text in ("bsr(blocks={})", "{}", "bsr + {}"):
        _refusal(text.format(f"open({str(trace)!r}, 'w')"))
    assert not trace.exists()


@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "2", None, (1,)])
def test_arguments_are_checked_by_the_method(value: Any) -> None:
    assert "k must be a whole number of at least 1" in _refusal(f"last({value!r})")


# --- lists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("full", [Full()]),
        (" full , linear, ", [Full(), Linear()]),
        ("last(k=3), last(2)", [Last(3), Last(2)]),
        (
            "bsr((1, 2), {0: 0.25, 1: 0.5}), full+checkpoint((0, 1)), (linear)",
            [Bsr((1, 2), {0: 0.25, 1: 0.5}), Full() + Checkpoint((0, 1)), Linear()],
        ),
    ],
)
def test_lists_are_separated_by_the_commas_between_methods(text: str, methods: list[Method]) -> None:
    assert parse_methods(text) == methods


@pytest.mark.parametrize(
    "text", ["last(3), full, last(k=3)", "last, last(3)", "full+checkpoint, checkpoint+full"]
)
def test_a_list_names_a_method_once(text: str) -> None:
    with pytest.raises(UserError, match="stands twice; name each method once"):
        parse_methods(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read ''"),
        (" , ", "cannot read ','"),
        ("full,, bsr", "cannot read 'full,, bsr' at column 6 ("),
        ("full, bsr(", "cannot read 'full, bsr('"),
        ("full], [bsr", "cannot read 'full], [bsr' at column 5 ("),
        ("full for x in y", "cannot read 'full for x in y'"),
        ("full, brs", "unknown value 'brs' (did you mean 'bsr'?)"),
        ("full, 3", "cannot read '3' at column 1: expected the name of a method"),
        ("full, *bsr", "cannot read '*bsr'"),
        ("full, last(k=0)", "last(k=0): k must be a whole number of at least 1"),
        ("full linear", "cannot read 'full linear'"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_methods(text)
    assert str(error.value).startswith(f"--method: {says}")
