"""What a trace notes of a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bsr_explorer.errors import UserError
from tests.models.traced import small
from tests.models.traced.small import Of, traced


def test_calls_stand_under_the_module_that_makes_them() -> None:
    found = traced(small.build())
    assert [call.path for call in found.calls if call.name == "conv2d"][:3] == [
        "stem",
        "blocks.0.conv1",
        "blocks.0.conv2",
    ]
    assert found.calls[-1].path == "loss" and found.loss == found.calls[-1].made[0].name


def test_a_tensor_is_held_until_python_lets_go_of_it() -> None:
    def late(x: Tensor) -> Tensor:
        kept = x * 2
        y = x + 1
        y = y + 1
        return y + kept

    found = traced(Of(late))
    at = {call.name: number for number, call in enumerate(found.calls)}
    product = next(call.made[0].name for call in found.calls if call.name == "mul")
    assert found.held[product] == at["add"]  # the last of that name
    first = next(call.made[0].name for call in found.calls if call.name == "add")
    assert found.held[first] == at["add"] - 1


def test_views_show_the_memory_of_what_they_are_given() -> None:
    found = traced(Of(lambda x: x.view(2, 3).chunk(1, dim=1)[0]))
    view = next(call for call in found.calls if call.name == "view")
    assert view.made[0].shows == 0
    chunk = next(call for call in found.calls if call.name == "chunk")
    assert chunk.made[0].shows == 0


def test_what_changes_in_place_is_made_anew_by_name() -> None:
    found = traced(Of(lambda x: (x + 1).relu_()))
    call = next(call for call in found.calls if call.name == "relu_")
    assert call.changes == (0,) and call.made[0].shows == 0 and not call.views


def test_with_a_view_that_changes_changes_what_it_is_a_view_of() -> None:
    def change(x: Tensor) -> Tensor:
        y = x + 1
        y[:, :2].mul_(2)
        return y

    call = next(call for call in traced(Of(change)).calls if call.name == "mul_")
    assert [place for place, _, _ in call.views] == [0] and len(call.made) == 2
    assert call.given[0].spec.shape == (2, 3)  # the whole


def test_functions_with_a_backward_of_their_own_are_one_call() -> None:
    names = [call.name for call in traced(Of(lambda x: small.Half.apply(x))).calls]
    assert "Half" in names and "div" not in names and "true_divide" not in names
    assert torch.equal(small.Half.apply(torch.ones(2)), torch.ones(2) / 2)  # as before the trace


def test_one_whose_apply_was_kept_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"call it as Half\.apply"):
        traced(Of(small.Half.apply))


def test_what_runs_without_a_graph_is_told_apart() -> None:
    def detached(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.exp()

    call = next(call for call in traced(Of(detached)).calls if call.name == "exp")
    assert call.detached
