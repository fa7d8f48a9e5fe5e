"""The fidelity that this machine can afford within the time limit: measured, then chosen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial

import torch

from bsr_explorer import damage
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.damage import Told
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import predict
from bsr_explorer.search.executors.base import Executor
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.space import Space, proxy_sizes
from bsr_explorer.store.study import Study
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import image_dtype, in_precision

OVERHEAD_SECONDS = 3.0
"""Of a trial beside its steps: building the model, loading weights, writing the record."""

SPARE = 0.6
"""Share of the time limit to plan for: machines are noisy, and finishing late is worse than early."""

LEAST_IMAGES = 256
"""Training images under which a smaller proxy image size is the better use of the time."""

MOST_IMAGES = 2000
MOST_VALIDATION = 500


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
    images = torch.randn(small.batch_size, 3, small.image_size, small.image_size)
    images = images.to(device, image_dtype(small.precision))
    labels = torch.zeros(small.batch_size, dtype=torch.int64, device=device)
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


def expected_seconds(config: Config, fidelity: Fidelity, speed: Speed) -> float:
    """Expected duration of one trial whose fidelity leaves nothing open."""
    train_flops, forward_flops = _flops(fidelity.at(config))
    epochs, images, validation = fidelity.epochs or 0, fidelity.train_size or 0, fidelity.val_size or 0
    each = epochs * images * train_flops / speed.train
    check = validation * forward_flops / speed.forward
    return OVERHEAD_SECONDS + (each + check) / config.batch_size


@lru_cache(maxsize=4096)
def _flops(config: Config) -> tuple[int, int]:
    """Of a training step and of an evaluation: a plan asks for the same ones over and over."""
    costs = predict(config)
    return costs.train_flops, costs.forward_flops


class Clock:
    """Expects how long trials take, and learns from those that ended how far off it was."""

    def __init__(self, fidelity: Fidelity, speed: Speed) -> None:
        self.fidelity, self.speed = fidelity, speed
        # Asked for after each step of a trial, of all known configurations.
        self._seconds = cache(partial(expected_seconds, fidelity=fidelity, speed=speed))
        self._expected = self._taken = 0.0

    def expected(self, config: Config) -> float:
        """Seconds that a trial of this configuration will take."""
        correction = self._taken / self._expected if self._expected else 1.0
        return self._seconds(config) * correction

    def learn(self, config: Config, seconds: float) -> None:
        """A trial took so long."""
        self._expected += self._seconds(config)
        self._taken += seconds


def plan(
    configs: Sequence[Config],
    trials: int,
    given: Fidelity,
    seconds: float | None,
    speed: Speed,
    available: tuple[int, int],
) -> Fidelity:
    """Fill in what a fidelity leaves open, so that the trials end within the time.

    Args:
        configs: what is likely to be trained (of the trials not among them, their mean is expected).
        trials: trainings in all.
        seconds: time for all trials, one after another; None: no limit, all data at the configuration's own size.
        available: training and validation images that exist.
    """
    own = configs[0].image_size
    rules = recipe(given.recipe)
    epochs = given.epochs or rules.epochs
    if seconds is None:
        return replace(given, image_size=given.image_size or own, epochs=given.epochs)
    validation = given.val_size or min(MOST_VALIDATION, available[1])
    chosen = replace(given, epochs=epochs, val_size=validation, image_size=given.image_size or own)
    sizes = [given.image_size] if given.image_size else proxy_sizes(configs[0])
    for size in sizes:
        chosen = replace(chosen, image_size=size)
        images = given.train_size or _affordable(configs, trials, chosen, seconds, speed, available[0])
        chosen = replace(chosen, train_size=images)
        enough = images >= min(LEAST_IMAGES, available[0])
        if enough and _total(configs, trials, chosen, speed) <= seconds * SPARE:
            break
    return chosen


def settle(
    study: Study,
    space: Space,
    job: Job,
    time_limit: float,
    workers: Executor | None = None,
    *,
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> tuple[Study, Speed]:
    """Decide everything that a study leaves open, once, so that all its trials are comparable.

    Weights are loaded, so that ``auto`` becomes what it found; the machine is timed; the fidelity is
    planned within the study's time limit, or ``time_limit`` seconds where it has none; the images are decoded once.

    Args:
        workers: where trials will run, on this machine or on ones that are as fast; in this process if
            nothing is said.
        skip_bad, told: see ``damage.planned``.

    Raises:
        UserError: weights or data that are not there, or damaged images.
    """
    config = space.known[0].config if space.known else study.config.with_method("linear")
    sizes = proxy_sizes(config)
    size = study.fidelity.image_size or sizes[min(1, len(sizes) - 1)]
    workers = workers or Here()
    limit = study.time_limit or time_limit
    candidates = [c.config for c in space.known if space.fits(c)] or [space.smallest.config]
    speed = calibrate(replace(config.with_method("full"), image_size=size), workers.threads)
    seconds = limit * workers.parallel(config.device)

    def within_the_time(given: Fidelity, train: int, validation: int) -> Fidelity:
        return plan(candidates, study.runs, given, seconds, speed, (train, validation))

    whole = replace(job, data=study.data, weights=study.weights, fidelity=study.fidelity)
    settled = damage.settled(config, whole, within_the_time, skip_bad=skip_bad, told=told)
    weights = settled.weights if study.weights == "auto" else study.weights
    return replace(study, time_limit=limit, fidelity=settled.fidelity, weights=weights), speed


def _total(configs: Sequence[Config], trials: int, fidelity: Fidelity, speed: Speed) -> float:
    each = [expected_seconds(config, fidelity, speed) for config in configs]
    return sum(each) / len(each) * trials


def _affordable(
    configs: Sequence[Config], trials: int, fidelity: Fidelity, seconds: float, speed: Speed, available: int
) -> int:
    """Training images that all trials can afford, in whole batches: at least one, and one of each class."""
    batch = configs[0].batch_size
    fixed = _total(configs, trials, replace(fidelity, train_size=batch), speed)
    more = _total(configs, trials, replace(fidelity, train_size=2 * batch), speed) - fixed
    batches = 1 + int(max(0.0, seconds * SPARE - fixed) / max(more, 1e-9))
    least = -(-configs[0].num_classes // batch)
    return min(max(batches, least) * batch, max(MOST_IMAGES, least * batch), available)
