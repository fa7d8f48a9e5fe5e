"""A method that changes while it trains. What its trainings come to is tested in ``tests/extending``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.phases import Phases
from bsr_explorer.finetune.watched import WatchedStep
from bsr_explorer.methods import Last, Linear, Spt
from bsr_explorer.methods.base import Phase
from bsr_explorer.methods.full import Full
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import Step

pytestmark = pytest.mark.usefixtures("toy")

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4)


@dataclass(frozen=True, eq=False, repr=False)
class Counting(Full):
    """Two phases, the second of which counts its steps."""

    name: ClassVar[str] = "counting"

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(0.5, Linear()), Phase(0.5, Counted(2)))


class Counted(Last):
    """Counts its steps beside the model."""

    name: ClassVar[str] = "counted"

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        model.counted = self.own_state(model)["steps"] + 1

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        return {"steps": getattr(model, "counted", 0)}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        model.counted = state["steps"]


def phased_step(total: int) -> Step:
    config = Config("toy", 32, batch_size=4).with_method(Counting())
    rules = recipe("short")
    step = make_step(build(config.with_method(Linear())), config, rules)
    step.changes, step.total = Phases(config, rules), total
    return step


def trained(step: Step) -> set[str]:
    return {name.split(".")[0] for name, p in step.model.named_parameters() if p.requires_grad}


def test_a_phase_begins_after_its_share_of_the_steps_and_goes_on_with_the_weights() -> None:
    step = phased_step(6)
    for _ in range(3):
        step(IMAGES, LABELS)
        assert trained(step) == {"head"}
    head = next(p for name, p in step.model.named_parameters() if name == "head.weight")
    before, state = head.detach().clone(), dict(step.optimizer.state[head])
    assert step.changes is not None
    step.changes.before(step)
    assert trained(step) == {"blocks", "head", "norm"}
    after = next(p for name, p in step.model.named_parameters() if name == "head.weight")
    assert torch.equal(after, before)
    carried = step.optimizer.state[after]
    assert carried.keys() == state.keys() and torch.equal(carried["exp_avg"], state["exp_avg"])


def test_a_training_goes_on_in_its_phase_with_what_the_method_remembers() -> None:
    whole, first = phased_step(6), phased_step(6)
    for _ in range(6):
        whole(IMAGES, LABELS)
    for _ in range(4):
        first(IMAGES, LABELS)
    again = phased_step(6)
    again.load_state_dict(first.state_dict())
    assert (again.done, again.model.counted) == (4, 1)
    for _ in range(2):
        again(IMAGES, LABELS)
    assert again.model.counted == whole.model.counted == 3
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_of_before_there_was_any_of_this_is_taken_up() -> None:
    config, rules = Config("toy", 32, batch_size=4, method="last(k=1)"), recipe("short")
    first, again = (make_step(build(config), config, rules) for _ in range(2))
    first.total = again.total = 4
    first(IMAGES, LABELS)
    again.changes = Phases(config, rules)
    state = first.state_dict()
    del state["done"], state["changes"]
    again.load_state_dict(state)
    assert first(IMAGES, LABELS) == again(IMAGES, LABELS)


@dataclass(frozen=True, eq=False, repr=False)
class Late(Full):
    """What looks at images comes in the second phase alone."""

    name: ClassVar[str] = "late"

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(0.5, Linear()), Phase(0.5, Spt()))


def test_what_looks_at_images_must_be_there_from_the_first_phase_on() -> None:
    config = Config("toy", 32, batch_size=4)
    with pytest.raises(UserError, match=r"spt\(share=0\.005\) looks at images before the first step"):
        Phases(config.with_method(Late()), recipe("short"))
    assert Phases(config.with_method("spt"), recipe("short")).looks == 8
    assert Phases(config.with_method("spt(batches=3)+checkpoint"), recipe("short")).looks == 3


def test_a_phase_that_begins_where_a_step_is_measured_is_measured_itself() -> None:
    config, rules = Config("toy", 32, batch_size=4).with_method(Counting()), recipe("short")
    step = make_step(build(config.with_method(Linear())), config, rules, WatchedStep)
    assert isinstance(step, WatchedStep)
    step.changes, step.total = Phases(config, rules), 2  # the second step is the first of the second phase
    for _ in range(2):
        step(IMAGES, LABELS)
    step.total = 6
    for _ in range(3):
        step(IMAGES, LABELS)
    phases = step.changes
    account = step.fullest(phases.config)
    assert account is not None and phases.config.how == Counted(2)
    assert account["peak_bytes"] == account["predicted_peak_bytes"]
