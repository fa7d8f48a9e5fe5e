"""What an architecture need not have, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.base import Architecture, Geometry, Selection
from bsr_explorer.naming import TIMM
from bsr_explorer.tape import Tape


class Least(Architecture):
    """What every architecture has, and no more."""

    name = "least"
    summary = "nothing"

    def knows(self, model: str) -> bool:
        """Its one model."""
        return model == "least"

    def geometry(self, model: str, image_size: int, num_classes: int) -> Geometry:
        """None."""
        raise NotImplementedError

    def step_tape(self, geometry: Geometry, batch_size: int, attention: str) -> Tape:
        """None."""
        raise NotImplementedError

    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """A layer."""
        return nn.Linear(2, 2)


def test_what_is_left_out_is_not_there() -> None:
    least = Least()
    assert least.naming is TIMM
    assert not (least.on_hub or least.published or least.packs or least.continues)
    assert not least.has_class_token(nn.Identity())


def test_without_attention_a_path_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    before = dict(vars(model))
    Least().use_attention_path(model, "math")
    assert vars(model) == before


GIVEN: Any = None


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda least: least.drop_tokens(GIVEN, 1, Selection(0.5, True, True)), "drop tokens"),
        (lambda least: least.drop_tokens_in(GIVEN, 1, Selection(0.5, True, True)), "drop tokens"),
        (lambda least: least.merge_tokens(GIVEN, 1), "merge tokens"),
        (lambda least: least.merge_tokens_in(GIVEN, 1), "merge tokens"),
        (lambda least: least.follow_tokens(GIVEN, GIVEN), "show their tokens"),
        (lambda least: least.all_tokens(GIVEN), "show their tokens"),
        (lambda least: least.stem(GIVEN, GIVEN), "go on from its blocks"),
        (lambda least: least.tail(GIVEN, GIVEN), "go on from its blocks"),
        (lambda least: least.after_blocks(GIVEN), "go on from its blocks"),
    ],
)
def test_what_its_models_cannot_do_is_said(ask: Callable[[Architecture], object], what: str) -> None:
    with pytest.raises(UserError) as error:
        ask(Least())
    assert str(error.value) == f"--model: models of the architecture least cannot {what}"


def test_what_every_architecture_has_cannot_be_left_out() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Less", (Architecture,), {"name": "less", "summary": ""})()
