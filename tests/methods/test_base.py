"""What all methods share: names of parameters, expressions, and several methods at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, Full, Last, Linear, parse_method
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.methods.subset import OfBlocks, Subset
from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


@dataclass(frozen=True, eq=False)
class Suffix(Method):
    """A method that chooses no parameters: it adds to the name of every operation."""

    text: str = "x"

    name: ClassVar[str] = "suffix"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def rewrite(self, tape: Tape) -> Tape:
        """Add the text to all names."""
        return replace(tape, ops=tuple(replace(op, name=op.name + self.text) for op in tape))

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap the model."""
        return nn.Sequential(model, nn.Identity())

    @property
    def at_inference(self) -> Method | None:
        """The wrapped model."""
        return self

    def canonical(self, depth: int) -> Method:
        """In small letters."""
        return type(self)(self.text.lower())


@dataclass(frozen=True, eq=False)
class Ending(Suffix):
    """The same under another name."""

    name: ClassVar[str] = "ending"


@dataclass(frozen=True, eq=False)
class Late(Suffix):
    """The same, after everything that changes the model."""

    name: ClassVar[str] = "late"
    stage: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Only(Subset):
    """The parameters of one name train."""

    parameter: str = "head.weight"

    name: ClassVar[str] = "only"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether it is the one."""
        return parameter == self.parameter


def _head() -> Tape:
    weight, bias = Parameter("head.weight", (2, 3), None), Parameter("head.bias", (2,), None)
    op = Op("head", "linear", 0, ("x",), "y", {"weight": "head.weight", "bias": "head.bias"})
    return Tape((Tensor("x", (1, 3), "x"),), {"head.weight": weight, "head.bias": bias}, (op,))


def test_an_expression_shows_arguments_but_quiet_ones_only_when_changed() -> None:
    assert str(Full()) == "full"
    assert str(Bsr((1,), {})) == "bsr(blocks=(1,), keep={}, fuse=True)"
    assert str(Bsr((1,), {}, head=False)) == "bsr(blocks=(1,), keep={}, fuse=True, head=False)"


def test_a_method_is_shown_as_its_expression() -> None:
    assert repr(Last(3)) == "last(k=3)"


def test_methods_of_one_expression_are_equal_and_hash_alike() -> None:
    assert len({Last(3), Last(3), parse_method("last(3)"), Last(2)}) == 2


def test_a_subset_freezes_all_but_the_chosen() -> None:
    tape = Only().rewrite(_head())
    assert {name: p.trains for name, p in tape.parameters.items()} == {
        "head.weight": True,
        "head.bias": False,
    }


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"only\(parameter='tail'\) trains nothing"):
        Only("tail").rewrite(_head())


def test_two_choosers_of_parameters_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"last\(k=2\) and linear both choose which parameters train"):
        Last(2) + Linear()


def test_two_choosers_are_found_across_a_sum() -> None:
    with pytest.raises(UserError, match="both choose"):
        Last(2) + Suffix() + Linear()


def test_a_sum_rewrites_from_left_to_right() -> None:
    tape = (Suffix("a") + Ending("b")).rewrite(_head())
    assert [op.name for op in tape] == ["headab"]


def test_a_later_stage_comes_later_however_a_sum_is_written() -> None:
    sums = [Late("c") + Suffix("a") + Ending("b"), Suffix("a") + (Late("c") + Ending("b"))]
    for method in sums:
        assert [op.name for op in method.rewrite(_head())] == ["headabc"]
    assert len({*sums, Suffix("a") + Ending("b") + Late("c")}) == 1


@pytest.mark.parametrize(
    "sum_of", [(Suffix("a"), Suffix("b")), (Suffix(), Only(), Suffix()), (Late(), Late())]
)
def test_a_method_that_stands_twice_is_refused(sum_of: tuple[Method, ...]) -> None:
    name = sum_of[0].name
    with pytest.raises(UserError, match=rf"--method: {name} stands twice in .*; name each method once"):
        Composed(sum_of)


def test_a_sum_applies_every_part() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = nn.ModuleList(), nn.Linear(3, 2)

    model = (Only() + Suffix()).apply(Model())
    assert isinstance(model, nn.Sequential)
    assert [p.requires_grad for p in model.parameters()] == [True, False]


def test_sums_are_flat_and_read_as_they_are_written() -> None:
    whole = Suffix("a") + (Ending("b") + Only())
    assert isinstance(whole, Composed)
    assert str(whole) == "suffix(text='a')+ending(text='b')+only(parameter='head.weight')"
    assert whole == (Suffix("a") + Ending("b")) + Only()


def test_the_canonical_form_of_a_sum_is_that_of_its_parts() -> None:
    assert (Suffix("A") + Last(1)).canonical(2) == Suffix("a") + Last(1).canonical(2)


def test_full_goes_without_saying() -> None:
    assert (Full() + Late("A")).canonical(2) == Late("a")
    assert (Full() + Late("A") + Suffix("B")).canonical(2) == Suffix("b") + Late("a")


def test_of_several_methods_remains_what_remains_of_each() -> None:
    assert (Full() + Touched()).at_inference is None
    assert (Touched() + Suffix("a") + Only()).at_inference == Suffix("a")
    assert (Touched() + Suffix("a") + Late("b")).at_inference == Suffix("a") + Late("b")


# --- methods of blocks ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Touched(OfBlocks):
    """Does nothing to the blocks that it chooses."""

    name: ClassVar[str] = "touched"
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def rewrite(self, tape: Tape) -> Tape:
        """As it is."""
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model


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
