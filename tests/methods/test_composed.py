"""Several methods at once: in which order, what is refused, what remains."""

from __future__ import annotations

import pytest
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Full, Last, Linear
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from tests.methods.doubles import Ending, Late, Only, Suffix, Touched, head


def test_two_choosers_of_parameters_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"last\(k=2\) and linear both choose which parameters train"):
        Last(2) + Linear()


def test_two_choosers_are_found_across_a_sum() -> None:
    with pytest.raises(UserError, match="both choose"):
        Last(2) + Suffix() + Linear()


def test_a_sum_rewrites_from_left_to_right() -> None:
    tape = (Suffix("a") + Ending("b")).rewrite(head())
    assert [op.name for op in tape] == ["headab"]


def test_a_later_stage_comes_later_however_a_sum_is_written() -> None:
    sums = [Late("c") + Suffix("a") + Ending("b"), Suffix("a") + (Late("c") + Ending("b"))]
    for method in sums:
        assert [op.name for op in method.rewrite(head())] == ["headabc"]
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
