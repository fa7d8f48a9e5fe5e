"""What to train next: the known configurations, then what a sampler proposes.

Whatever proposes, nothing over the budget and nothing trained before comes out of here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import qmc

from bsr_explorer.search.choices import Candidate, Choices, from_strata
from bsr_explorer.search.exact import ExactCostSampler, history

TRIES = 50
"""Proposals of a sampler to look at before giving up on it for this trial."""

COSTS = ("counted_bytes", "train_flops")
"""The costs of a trial by objective, as its attributes name them."""

FEW = {"gp": 4}
"""The same for samplers that take a second or so a proposal, and do not learn from what is refused."""


@dataclass(frozen=True)
class Proposal:
    """A configuration to train, and what its sampler wants to be remembered with the trial."""

    candidate: Candidate
    system_attrs: dict[str, Any] = field(default_factory=dict)


class SobolSampler(BaseSampler):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Points of a scrambled Sobol sequence, in order. (Optuna's own sampler draws categories at random.)"""

    def __init__(self, distributions: dict[str, BaseDistribution], seed: int) -> None:
        self.distributions, self.seed = distributions, seed
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are chosen together."""
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point of the trial's number."""
        sequence = qmc.Sobol(len(self.distributions), scramble=True, rng=self.seed)
        point = sequence.fast_forward(trial.number).random()[0] if trial.number else sequence.random()[0]
        choices = {name: d.choices for name, d in self.distributions.items() if hasattr(d, "choices")}
        return {
            name: options[int(share * len(options))]
            for (name, options), share in zip(choices.items(), point, strict=True)
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is none of the space's, at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


POPULATION = 20
"""Of NSGA-II: Optuna's own, 50, is more than most studies train."""

SAMPLERS: dict[str, Callable[[Choices, int], BaseSampler]] = {
    "exact": ExactCostSampler,
    "tpe": lambda choices, seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "nsga2": lambda choices, seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION),
    "gp": lambda choices, seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda choices, seed: RandomSampler(seed=seed),
    "qmc": lambda choices, seed: SobolSampler(dict(choices.distributions), seed),
}
"""Samplers by name, each made of a space and a seed. All but the first are Optuna's way, with Optuna's own start."""

ONE_SEQUENCE = ("qmc",)
"""Samplers whose proposals are one sequence through a whole study, and so are made of the study's seed."""


def propose(
    choices: Choices,
    sampler: str,
    seen: Sequence[FrozenTrial],
    pending: Sequence[Candidate],
    done: set[str],
    seed: int,
    objectives: int = 2,
    study_seed: int = 0,
    first: int | None = None,
    closing: bool = False,
) -> Proposal | None:
    """The next configuration to train, within the budget and not in ``done``; None if there is none left.

    It depends on the arguments alone, so that a search that was killed goes on as if it had not been.

    Args:
        sampler: key of ``SAMPLERS``.
        seen: trials with an outcome: values (accuracy, counted bytes, and with 3 objectives training FLOPs), or
            stopped at a rung.
        pending: what was begun and has no outcome that may be seen.
        done: ``place`` of all that must not be trained again.
        seed: of this proposal alone.
        study_seed: of the whole study, for those of ``ONE_SEQUENCE``.
        first: how many known configurations are tried before all others; None: all that fit. (Where there are proxies,
            they are tried at the cheapest.)
        closing: see ``ExactCostSampler.propose``.
    """
    done = done | {candidate.place for candidate in pending}
    proxies = len(choices.efforts) - 1
    known = [replace(candidate, proxy=proxies) for candidate in choices.known if choices.fits(candidate)]
    for candidate in known[:first]:
        if candidate.place not in done:
            return Proposal(candidate)
    if proxies:
        asked = ExactCostSampler(choices, seed).propose(
            [*seen, *_running(choices, pending)], objectives - 1, done, closing
        )
        return None if asked is None else Proposal(asked)
    study = _scratch(
        choices, sampler, seen, pending, study_seed if sampler in ONE_SEQUENCE else seed, objectives
    )
    for _ in range(FEW.get(sampler, TRIES)):
        try:
            trial = study.ask(dict(choices.distributions))
        except optuna.TrialPruned:
            return None
        candidate = choices.asked(trial.params, done)
        if choices.fits(candidate) and candidate.key not in done:
            return Proposal(candidate, study.get_trials(deepcopy=False)[trial.number].system_attrs)
    sizes = [choices.decode(trial.params).counted_bytes for trial in seen]
    found = from_strata(choices, sizes, done, np.random.default_rng(seed))
    return Proposal(found) if found else None


def _scratch(
    choices: Choices,
    sampler: str,
    seen: Sequence[FrozenTrial],
    pending: Sequence[Candidate],
    seed: int,
    objectives: int,
) -> Study:
    """A study in memory to ask on, so that what is proposed in vain leaves no trial behind.

    What is asked there and not told counts as running, which keeps samplers from repeating themselves.
    """
    directions = [StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (objectives - 1)]
    study = optuna.create_study(directions=directions, sampler=SAMPLERS[sampler](choices, seed))
    study.add_trials([trial if sampler == "exact" else _completed(trial, objectives) for trial in seen])
    study.add_trials(_running(choices, pending))
    return study


def _running(choices: Choices, pending: Sequence[Candidate]) -> list[FrozenTrial]:
    return [
        create_trial(
            state=TrialState.RUNNING,
            params=choices.encode(candidate),
            distributions=dict(choices.distributions),
            user_attrs={"proxy": candidate.proxy},
        )
        for candidate in pending
    ]


def _completed(trial: FrozenTrial, objectives: int) -> FrozenTrial:
    """A trial that stopped at a rung, for samplers that do not know rungs: complete, with what it had reached."""
    if trial.state != TrialState.PRUNED:
        return trial
    reached = max(history(trial).items(), default=(0, 0.0))[1]
    return create_trial(
        params=trial.params,
        distributions=trial.distributions,
        values=[reached, *(float(trial.user_attrs[cost]) for cost in COSTS[: objectives - 1])],
        system_attrs=trial.system_attrs,
    )


def derived_seed(*parts: object) -> int:
    """32 bits that depend on all parts, the same in every process."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
