"""Running a model for its trace: what is refused, and that nothing of torch stays changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bsr_explorer.errors import UserError
from tests.models.traced import small
from tests.models.traced.small import Of, traced


def test_a_trace_leaves_torch_as_it_was() -> None:
    call, apply = nn.Module.__call__, vars(torch.autograd.Function)["apply"]
    with pytest.raises(UserError):
        traced(small.deciding())
    assert nn.Module.__call__ is call and vars(torch.autograd.Function)["apply"] is apply


def test_numbers_that_decide_are_named_with_the_line() -> None:
    with pytest.raises(UserError, match=r"small\.py, line \d+\).* depends on the numbers in a tensor"):
        traced(small.deciding())


def test_a_model_that_fails_is_said_where() -> None:
    with pytest.raises(UserError, match="head cannot be traced"):
        traced(Of(lambda x: x[:, :2]))


@pytest.mark.parametrize(
    ("loss", "why"), [(small.no_scalar, r"\(2,\)"), (lambda logits, labels: 1.0, "float")]
)
def test_a_loss_must_be_one_number(loss: Any, why: str) -> None:
    model = Of(F.relu)
    model.own_loss = loss
    with pytest.raises(UserError, match=f"loss: it returns {why}; a tensor of one number is needed"):
        traced(model)


def test_own_lists_of_parameters_are_the_models_own() -> None:
    """``nn.LSTM`` calls with a list of its parameters, which nothing replaces."""
    model = small.recurrent()
    trace = traced(model)
    used = {given.name for call in trace.calls for given in call.given if given.kind == "parameter"}
    assert used == {name for name, _ in model.named_parameters()}
    assert not trace.constants and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("targets", "why"),
    [(False, "targets should not be none"), (True, "depends on the numbers in a tensor")],
)
def test_detection_is_refused_with_the_line(targets: bool, why: str) -> None:
    """What it computes depends on which boxes there are."""
    with pytest.raises(UserError, match=rf"cannot be traced \(\w+\.py, line \d+\): .*{why}"):
        traced(small.detecting(targets), size=64)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_runs_again_by_itself_is_refused(reentrant: bool) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 3), nn.Linear(3, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.stem(images.mean(dim=(2, 3)))
            return self.head(checkpoint(torch.tanh, x, use_reentrant=reentrant))

    with pytest.raises(UserError, match="it checkpoints parts of itself"):
        traced(Again())
