"""A method that changes while it trains: its phases, and what it does before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from bsr_explorer import interrupt
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build_with, make_step
from bsr_explorer.finetune.watched import WatchedStep
from bsr_explorer.prediction import predict
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, in_precision


class Phases:
    """Lets a step train as the phases of its method say.

    A new phase has a model of its own, with the weights that were trained; what parameters of the same name have in the
    optimiser goes on.

    Args:
        config: whose method has the phases.

    Attributes:
        config: as it trains now.
    """

    def __init__(self, config: Config, rules: Recipe) -> None:
        self._phases = config.how.phases()
        self._ends = list(accumulate(phase.share for phase in self._phases))
        self._whole, self._rules, self._index = config, rules, 0
        self.config = config.with_method(self._phases[0].method)
        for phase in self._phases[1:]:
            if phase.method.looks > self.looks:
                raise UserError(
                    f"--method: {phase.method} looks at images before the first step of a training, and comes later in "
                    "this one; let it be in the first phase, too"
                )

    @property
    def looks(self) -> int:
        """See ``train.step.Changes``."""
        return self.config.how.looks

    def begin(self, step: Step, batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        """See ``train.step.Changes``. At most half of the images that a step passes at once pass here."""
        some = max(1, self.config.micro_batch_size // 2)
        for looking in self.config.how.looking(step.model, _room(self.config, some)):
            with looking:
                for images, labels in batches():
                    interrupt.check()
                    step.backward(
                        Step.loss(step, images[:some], labels[:some])
                    )  # of which nothing is recorded
                    step.optimizer.zero_grad(set_to_none=True)

    def before(self, step: Step) -> None:
        """See ``train.step.Changes``."""
        reached = step.done / max(1, step.total)
        while self._index + 1 < len(self._phases) and reached >= self._ends[self._index] - 1e-9:
            self._turn(step, self._index + 1)
        how = self.config.how
        how.before_step(step.model, step.done, step.total)
        if how.moves:
            settle(step, how.forgets)

    def state_dict(self, step: Step) -> dict[str, Any]:
        """See ``train.step.Changes``."""
        return {"phase": self._index, "own": self.config.how.own_state(step.model)}

    def load_state_dict(self, step: Step, state: dict[str, Any]) -> None:
        """See ``train.step.Changes``."""
        if state["phase"] != self._index:
            self._turn(step, state["phase"])
        self.config.how.load_own_state(step.model, state["own"])

    def _turn(self, step: Step, index: int) -> None:
        before, trained = self.config, step.model
        if isinstance(step, WatchedStep):
            step.note(before)
        self._index, self.config = index, self._whole.with_method(self._phases[index].method)
        model = in_precision(build_with(self.config, "random", 0)[0], self.config.precision).to(step.device)
        _carry_weights(before, trained, model)
        made = make_step(model.train(trained.training), self.config, self._rules)
        _carry_optimizer(step, made)
        step.model, step.optimizer, step.trained = made.model, made.optimizer, made.trained


def settle(step: Step, forgets: bool) -> None:
    """After a method changed what trains: what is kept of what rests is as it should be, too.

    Args:
        forgets: whether the optimiser's state of it goes.
    """
    for p in step.trained:
        if forgets and not p.requires_grad:
            step.optimizer.state.pop(p, None)
        if p.requires_grad and p.grad is None and not step.set_to_none:
            p.grad = torch.zeros_like(p)


def _room(config: Config, images: int) -> int:
    """By how many bytes the peak of a step is above that of passing some images of its batch, before there is an
    optimiser's state."""
    passing = replace(config, batch_size=images, micro_batches=1, optimizer="sgd", set_to_none=True)
    step, some = predict(config), predict(passing)
    return (step.peak_bytes - step.input_bytes) - (some.peak_bytes - some.input_bytes)


@torch.no_grad()
def _carry_weights(before: Config, trained: nn.Module, model: nn.Module) -> None:
    """Copy what was trained: as plain weights, if the new phase has not all of its parameters."""
    state, target = trained.state_dict(), model.state_dict()
    if any(name not in target for name, _ in trained.named_parameters()):
        state = before.how.merge(state)
    for name, tensor in target.items():
        if name in state and state[name].shape == tensor.shape:
            tensor.copy_(state[name])


def _carry_optimizer(old: Step, new: Step) -> None:
    """What the optimiser remembers of parameters that trained before and train on."""
    known = {name: old.optimizer.state.get(p) for name, p in old.model.named_parameters()}
    for name, p in new.model.named_parameters():
        if p.requires_grad and (state := known.get(name)):
            new.optimizer.state[p] = state
