"""How long a trial takes on this machine: its FLOPs, at the speed that was measured."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.measure import batch_of
from bsr_explorer.models.architecture import architecture_of
from bsr_explorer.models.inputs import TOKENS
from bsr_explorer.prediction import predict
from bsr_explorer.prefix.prefix import OFTEN
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import in_precision

OVERHEAD_SECONDS = 3.0
"""Of a trial beside its steps: building the model, loading weights, writing the record."""


@dataclass(frozen=True)
class Speed:
    """FLOPs a second of this machine, of training steps and of evaluation."""

    train: float
    forward: float


def calibrate(config: Config, threads: int | None = None) -> Speed:
    """Time one training step and one evaluation step of a small batch, each after a warm-up.

    Args:
        threads: to compute with; None: torch's own choice.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _calibrate(config)
    finally:
        torch.set_num_threads(before)


def _calibrate(config: Config) -> Speed:
    device = device_of(config)
    small = replace(config, batch_size=min(8, config.batch_size), micro_batches=1)
    model = in_precision(build(small), small.precision).to(device)
    images, labels = batch_of(small, model, torch.Generator().manual_seed(0))
    step = make_step(model, small, replace(recipe("short"), lr=0.0))

    @torch.no_grad()
    def forward() -> None:
        step.loss(images, labels)

    costs = predict(small)
    training = _seconds(lambda: step(images, labels), device)
    return Speed(costs.train_flops / training, costs.forward_flops / _seconds(forward, device))


def _seconds(step: object, device: torch.device) -> float:
    assert callable(step)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def expected_seconds(config: Config, fidelity: Fidelity, speed: Speed, cached: bool = True) -> float:
    """Expected duration of one trial whose fidelity leaves nothing open.

    Args:
        cached: whether the outputs of frozen blocks are computed once, and not in each step.
    """
    train_flops, forward_flops, frozen_flops = _flops(fidelity.at(config))
    epochs, images, validation = fidelity.epochs or 0, fidelity.train_size or 0, fidelity.val_size or 0
    once = frozen_flops if cached else 0
    batches = max(1, images // config.batch_size)
    whole = (
        math.ceil(batches / OFTEN) / batches
    )  # of the batches run cached blocks too, to see that they agree
    first = images * once / speed.forward
    each = epochs * images * (train_flops - once * (1 - whole)) / speed.train
    check = validation * forward_flops / speed.forward
    return OVERHEAD_SECONDS + (first + each + check) / config.batch_size


@lru_cache(maxsize=4096)
def _flops(config: Config) -> tuple[int, int, int]:
    """Of a training step, of an evaluation, and of its first blocks as far as nothing changes them: a plan asks for the
    same ones over and over."""
    costs = predict(config)
    again = len(config.how.phases()) > 1 or architecture_of(config.model).takes is TOKENS  # nothing is kept
    stages = [] if again else stages_of(config)
    frozen = sum(1 for _ in itertools.takewhile(lambda stage: stage.frozen, stages)) - 1
    flops = sum(
        row.flops
        for row in costs.rows
        if row.kind == "forward" and row.block is not None and row.block < frozen
    )
    return costs.train_flops, costs.forward_flops, flops


class Clock:
    """Expects how long trials take, and learns from those that ended how far off it was."""

    def __init__(self, fidelities: Sequence[Fidelity], speed: Speed, cached: bool = True) -> None:
        """``fidelities``: the study's own, and its proxies."""
        self.fidelities, self.speed, self.cached = fidelities, speed, cached
        # Asked for after each step of a trial, of all known configurations.
        self._seconds = cache(self._expected_seconds)
        self._expected = self._taken = 0.0

    def _expected_seconds(self, config: Config, proxy: int) -> float:
        return expected_seconds(config, self.fidelities[proxy], self.speed, self.cached)

    def expected(self, config: Config, proxy: int = 0) -> float:
        """Seconds that a trial of this configuration will take."""
        correction = self._taken / self._expected if self._expected else 1.0
        return self._seconds(config, proxy) * correction

    def learn(self, config: Config, seconds: float, proxy: int = 0) -> None:
        """A trial took so long."""
        self._expected += self._seconds(config, proxy)
        self._taken += seconds
