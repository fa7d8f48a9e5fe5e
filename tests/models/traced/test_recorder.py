"""What a trace notes of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Trace
from bsr_explorer.models.traced.recorder import trace
from tests.models.traced import small


def _trace(model: nn.Module, size: int = 16) -> Trace:
    return trace(
        model, {"images": torch.empty(2, 3, size, size), "labels": torch.zeros(2, dtype=torch.int64)}
    )


class _Of(nn.Module):
    """Features of a mean image by one function, and a head."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.function(images.mean(dim=(2, 3))))
        return out


def test_calls_stand_under_the_module_that_makes_them() -> None:
    found = _trace(small.build())
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

    found = _trace(_Of(late))
    at = {call.name: number for number, call in enumerate(found.calls)}
    product = next(call.made[0].name for call in found.calls if call.name == "mul")
    assert found.held[product] == at["add"]  # the last of that name
    first = next(call.made[0].name for call in found.calls if call.name == "add")
    assert found.held[first] == at["add"] - 1


def test_views_show_the_memory_of_what_they_are_given() -> None:
    found = _trace(_Of(lambda x: x.view(2, 3).chunk(1, dim=1)[0]))
    view = next(call for call in found.calls if call.name == "view")
    assert view.made[0].shows == 0
    chunk = next(call for call in found.calls if call.name == "chunk")
    assert chunk.made[0].shows == 0


def test_what_changes_in_place_is_made_anew_by_name() -> None:
    found = _trace(_Of(lambda x: (x + 1).relu_()))
    call = next(call for call in found.calls if call.name == "relu_")
    assert call.changes == (0,) and call.made[0].shows == 0 and not call.views


def test_with_a_view_that_changes_changes_what_it_is_a_view_of() -> None:
    def change(x: Tensor) -> Tensor:
        y = x + 1
        y[:, :2].mul_(2)
        return y

    call = next(call for call in _trace(_Of(change)).calls if call.name == "mul_")
    assert [place for place, _, _ in call.views] == [0] and len(call.made) == 2
    assert call.given[0].spec.shape == (2, 3)  # the whole


def test_functions_with_a_backward_of_their_own_are_one_call() -> None:
    names = [call.name for call in _trace(_Of(lambda x: small.Half.apply(x))).calls]
    assert "Half" in names and "div" not in names and "true_divide" not in names
    assert torch.equal(small.Half.apply(torch.ones(2)), torch.ones(2) / 2)  # as before the trace


def test_one_whose_apply_was_kept_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"call it as Half\.apply"):
        _trace(_Of(small.Half.apply))


def test_what_runs_without_a_graph_is_told_apart() -> None:
    def detached(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.exp()

    call = next(call for call in _trace(_Of(detached)).calls if call.name == "exp")
    assert call.detached


def test_a_trace_leaves_torch_as_it_was() -> None:
    call, apply = nn.Module.__call__, vars(torch.autograd.Function)["apply"]
    with pytest.raises(UserError):
        _trace(small.deciding())
    assert nn.Module.__call__ is call and vars(torch.autograd.Function)["apply"] is apply


def test_numbers_that_decide_are_named_with_the_line() -> None:
    with pytest.raises(UserError, match=r"small\.py, line \d+\).* depends on the numbers in a tensor"):
        _trace(small.deciding())


def test_a_model_that_fails_is_said_where() -> None:
    with pytest.raises(UserError, match="head cannot be traced"):
        _trace(_Of(lambda x: x[:, :2]))


@pytest.mark.parametrize(
    ("loss", "why"), [(small.no_scalar, r"\(2,\)"), (lambda logits, labels: 1.0, "float")]
)
def test_a_loss_must_be_one_number(loss: Any, why: str) -> None:
    model = _Of(F.relu)
    model.own_loss = loss
    with pytest.raises(UserError, match=f"loss: it returns {why}; a tensor of one number is needed"):
        _trace(model)
