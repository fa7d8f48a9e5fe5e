"""How long real training steps take, of several configurations in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.measure import batch_of
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import in_precision


class Stepper:
    """A configuration's training step, one after another on the same random batch.

    Raises:
        UserError: the configuration's device is not here.
    """

    def __init__(self, config: Config) -> None:
        model = in_precision(build(config), config.precision).to(device_of(config)).train()
        self.step = make_step(model, config, recipe("short"))
        self.images, self.labels = batch_of(config, model, torch.Generator().manual_seed(0))

    def seconds(self) -> float:
        """Duration of one step."""
        began = time.perf_counter()
        self.step(self.images, self.labels)
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


def in_turn(
    steppers: Sequence[Stepper], rounds: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[list[float]]:
    """Seconds of each stepper's steps, one a round.

    A machine whose speed drifts slows all of a round alike, so that ratios within a round say more than
    those of medians. The first step, which makes the optimiser's state, should be over.

    Args:
        progress: called after each step with steps done and steps in all.
    """
    taken: list[list[float]] = [[] for _ in steppers]
    for turn in range(rounds):
        for place, stepper in enumerate(steppers):
            taken[place].append(stepper.seconds())
            progress(turn * len(steppers) + place + 1, rounds * len(steppers))
    return taken
