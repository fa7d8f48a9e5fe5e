"""How many trials, and how thorough ones, this machine can afford within the time limit: measured, then chosen.

Fewer trials come before poorer ones. An accuracy that is found at another image size, or with a few images, ranks
configurations otherwise than the target does, above all those that drop tokens (``benchmarks/proxies.py``): a smaller
image has fewer patches, and a drop takes what it cannot spare; and a dozen steps say how fast a training begins, not
where it ends. So there is a floor of images. Trials train at the target's own image size, if that many can be afforded
there; if not, at half of it; where nothing in the space drops tokens, at a quarter too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bsr_explorer import damage
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.damage import Told
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.executors.base import Executor
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.proxies import proxy_sizes
from bsr_explorer.search.space import Space
from bsr_explorer.search.speed import Speed, calibrate, expected_seconds
from bsr_explorer.store.proxies import PROXIES_A_TRIAL, at_proxy
from bsr_explorer.store.study import Study, runs
from bsr_explorer.train.recipes import recipe

SPARE = 0.8
"""Share of the time limit to plan for: machines are noisy, and no trial starts that would end after it."""

A_CLASS = 25
"""Training images of each class, at least."""

LEAST_PATCHES = 16
"""Of a proxy at less than half the image size: so many are left of 224 px at 64 px, the least that was measured
(``benchmarks/proxies.py``)."""


@dataclass(frozen=True)
class Effort:
    """What trials of a search cost.

    Attributes:
        trials: configurations that are trained.
        replicas: fresh seeds of the front.
        images: training images of a trial.
        validation: validation images.
    """

    trials: int
    replicas: int
    images: int
    validation: int


LADDER = (
    Effort(8, 0, 256, 200),
    Effort(8, 1, 256, 250),
    Effort(10, 1, 256, 500),
    Effort(12, 1, 384, 500),
    Effort(12, 2, 512, 500),
    Effort(16, 3, 512, 500),
    Effort(24, 3, 512, 500),
    Effort(24, 3, 1024, 1000),
    Effort(32, 3, 2048, 2000),
    Effort(48, 3, 4096, 5000),
)
"""What more time is spent on, step by step: on images until the order of configurations settles, then on trials."""


@dataclass(frozen=True)
class Asked:
    """What a plan is made for.

    Attributes:
        configs: what is tried first, in order (of the trials after them, their mean is expected).
        fidelity: of which only what is left open is planned.
        trials, replicas: None: as many as the time allows.
        drops: whether configurations may drop tokens.
        available: training and validation images that exist.
        cached: whether the outputs of frozen blocks are computed once.
        several: whether trainings at a proxy are to be planned too.
        proxies: that are given: see ``Study.proxies``.
    """

    configs: Sequence[Config]
    fidelity: Fidelity
    trials: int | None
    replicas: int | None
    drops: bool
    available: tuple[int, int]
    cached: bool = True
    several: bool = False
    proxies: tuple[str, ...] = ()

    def first(self, trials: int) -> int:
        """How many of the configurations are tried before a sampler proposes: where the number of trials is planned,
        half of them at most."""
        return min(len(self.configs), trials if self.trials is not None else max(1, trials // 2))

    @property
    def least_images(self) -> int:
        """Training images of a trial at least, in whole batches, as far as there are so many."""
        batch = self.configs[0].batch_size
        least = max(LADDER[0].images, A_CLASS * self.configs[0].num_classes)
        return min(-(-least // batch) * batch, self.available[0])

    @property
    def sizes(self) -> list[int]:
        """Image sizes that may be trained at, the best first."""
        if self.fidelity.image_size:
            return [self.fidelity.image_size]
        return proxy_sizes(self.configs[0])[: 2 if self.drops else None]


@dataclass(frozen=True)
class Plan:
    """What a search trains.

    Attributes:
        seconds: that all trainings are expected to take, one after another.
        proxies: see ``Study.proxies``.
    """

    fidelity: Fidelity
    trials: int
    replicas: int
    seconds: float
    proxies: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Standard error of an accuracy of 80%, from its validation images alone, in points."""
        return 100 * math.sqrt(0.8 * 0.2 / (self.fidelity.val_size or math.inf))


def plan(asked: Asked, seconds: float, speed: Speed) -> Plan:
    """The most thorough plan whose trials end within the time; where none does, the least one that says anything.

    Args:
        seconds: time for all trainings, one after another.
    """
    least = None
    for size in asked.sizes:
        steps = [_planned(asked, effort, size, speed) for effort in LADDER]
        affordable = [step for step in steps if step.seconds <= seconds * SPARE]
        if affordable:
            return affordable[-1]
        least = steps[0]
    assert least is not None
    return least


def _planned(asked: Asked, effort: Effort, size: int, speed: Speed) -> Plan:
    given, (train, validation) = asked.fidelity, asked.available
    fidelity = replace(
        given,
        image_size=size,
        epochs=given.epochs or recipe(given.recipe).epochs,
        train_size=given.train_size or min(train, max(asked.least_images, effort.images)),
        val_size=given.val_size or min(validation, effort.validation),
    )
    trials = effort.trials if asked.trials is None else asked.trials
    replicas = effort.replicas if asked.replicas is None else asked.replicas
    each = [expected_seconds(config, fidelity, speed, asked.cached) for config in asked.configs]
    proxies = _proxies(asked, fidelity)
    first = [] if proxies else each[: asked.first(trials)]
    seconds = sum(first) + fmean(each) * (runs(trials, replicas) - len(first))
    for proxy in proxies:
        cheaper = at_proxy(proxy, fidelity)
        there = fmean(expected_seconds(config, cheaper, speed, asked.cached) for config in asked.configs)
        seconds += PROXIES_A_TRIAL * trials * there / len(proxies)
    return Plan(fidelity, trials, replicas, seconds, proxies)


def _proxies(asked: Asked, fidelity: Fidelity) -> tuple[str, ...]:
    """Those that are given; or, where they are to be planned, half of the image size, and a quarter if that leaves
    patches enough, with the fewest images: which of them says how much, the sampler learns."""
    if not asked.several:
        return asked.proxies
    config = replace(asked.configs[0], image_size=fidelity.image_size or asked.configs[0].image_size)
    patch = geometry_of(config).patch
    _, *sizes = proxy_sizes(config)
    sizes = [*sizes[:1], *(size for size in sizes[1:] if (size // patch) ** 2 >= LEAST_PATCHES)]
    return tuple(f"{size}x{asked.least_images}" for size in sizes)


@dataclass(frozen=True)
class Settled:
    """A study that leaves nothing open.

    Attributes:
        speed: of this machine.
        plan: of what it trains in all.
        more: what a larger time limit would buy, in seconds and what is planned then.
    """

    study: Study
    speed: Speed
    plan: Plan
    more: tuple[float, Plan] | None


MORE = 4
"""So many times the time limit is what is said of a larger one."""


def settle(
    study: Study,
    space: Space,
    job: Job,
    time_limit: float,
    workers: Executor | None = None,
    *,
    open: Collection[str] = (),
    skip_bad: bool = False,
    told: Told = lambda done, total: None,
) -> Settled:
    """Decide everything that a study leaves open, once, so that all its trials are comparable.

    Weights are loaded, so that ``auto`` becomes what it found; the machine is timed; the trials and their fidelity are
    planned within the study's time limit, or ``time_limit`` seconds where it has none; the images are decoded once.

    Args:
        workers: where trials will run, on this machine or on ones that are as fast; in this process if
            nothing is said.
        open: which of ``trials`` and ``replicas`` are as many as the time allows, and whether ``proxies`` are planned.
            Where trials are, what is known is tried first in half of them at most, so that something is searched.
        skip_bad, told: see ``damage.planned``.

    Raises:
        UserError: weights or data that are not there, or damaged images.
    """
    config = space.known[0].config if space.known else study.config.with_method("linear")
    workers = workers or Here()
    limit = study.time_limit or time_limit
    candidates = [c.config for c in space.known if space.fits(c)] or [space.smallest.config]
    asked = Asked(
        candidates,
        study.fidelity,
        None if "trials" in open else study.trials,
        None if "replicas" in open else study.replicas,
        space.drops,
        (0, 0),
        job.cache is not None,
        "proxies" in open,
        study.proxies,
    )
    speed = calibrate(replace(config.with_method("full"), image_size=asked.sizes[0]), workers.threads)
    parallel = workers.parallel(config.device)
    plans: list[Plan] = []

    def within_the_time(given: Fidelity, train: int, validation: int) -> Fidelity:
        now = replace(asked, fidelity=given, available=(train, validation))
        plans[:] = [plan(now, seconds * parallel, speed) for seconds in (limit, MORE * limit)]
        return plans[0].fidelity

    whole = replace(job, data=study.data, weights=study.weights, fidelity=study.fidelity)
    settled = damage.settled(config, whole, within_the_time, skip_bad=skip_bad, told=told)
    weights = settled.weights if study.weights == "auto" else study.weights
    planned, more = plans
    if asked.several and not planned.proxies:
        raise UserError(
            f"--fidelity: multi needs a smaller image than {planned.fidelity.image_size} px, and there is none; choose "
            "single"
        )
    study = replace(
        study,
        time_limit=limit,
        fidelity=settled.fidelity,
        weights=weights,
        trials=planned.trials,
        replicas=planned.replicas,
        proxies=planned.proxies,
        first=asked.first(planned.trials) if "trials" in open else study.first,
    )
    better = replace(more, seconds=0) != replace(planned, seconds=0)
    return Settled(study, speed, planned, (MORE * limit, more) if better else None)
