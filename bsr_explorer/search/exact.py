"""The exact-cost sampler: only accuracy is learned, for memory and FLOPs are known.

An ordinary sampler of Optuna: what it proposes is always within the budget and new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bsr_explorer.search.choices import Candidate, Choices, Pool, from_strata
from bsr_explorer.search.features import Floats
from bsr_explorer.search.improvement import expected_improvement
from bsr_explorer.search.surrogate import Surrogate

START, GUIDED = 6, 3
"""Trials before the surrogate, one a stratum of memory; and where an earlier study guesses."""

POOL = 12_000
"""Configurations that the expected improvement is computed of at once."""

PAIRS = 3
"""Trials that went on after a rung, from which on it is known what a rung says of the end."""


class ExactCostSampler(BaseSampler):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Proposes the configuration whose expected growth of the front's hypervolume is largest.

    A Gaussian process learns accuracy; memory is exact, and so are training FLOPs, where a study has them as its
    third objective. Running trials count as if they would come out as expected, so that parallel workers get
    different proposals.

    Args:
        choices: what there is to choose among, with its costs.
        seed: of the pool that is looked at.
    """

    def __init__(self, choices: Choices, seed: int = 0) -> None:
        self.choices = choices
        self._generator = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are chosen together."""
        return dict(self.choices.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal, as Optuna's parameters.

        Raises:
            optuna.TrialPruned: nothing is left that is within the budget and new.
        """
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and t.params]
        candidate = self.propose(others, costs=len(study.directions) - 1)
        if candidate is None:
            raise optuna.TrialPruned("nothing is left that is within the budget and new")
        return self.choices.encode(candidate)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is none of the space's, at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(self, trials: Sequence[FrozenTrial], costs: int = 1) -> Candidate | None:
        """The next configuration.

        Args:
            trials: those with an outcome, and those that are running.
            costs: 1 (memory) or 2 (and training FLOPs).
        """
        candidates = [self.choices.decode(trial.params) for trial in trials]
        done = {c.key for c in candidates}
        known = [n for n, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
        if len(known) < (START if self.choices.prior is None else GUIDED):
            return from_strata(self.choices, [c.counted_bytes for c in candidates], done, self._generator)
        rows = self.choices.rows(candidates)
        numbers, accuracy, doubt = _outcomes(trials)
        prior = None if self.choices.prior is None else self.choices.prior.fitted(self.choices)
        surrogate = Surrogate.fit(rows[numbers], accuracy, doubt, self.choices.depth, prior)
        waiting = [n for n in range(len(trials)) if n not in set(numbers)]
        if waiting:
            surrogate = surrogate.believing(rows[waiting])
        # What is seen is believed as the surrogate believes it: without its noise.
        seen, _ = surrogate.predict(rows)
        paid = np.array([(c.counted_bytes, c.train_flops) for c in candidates], dtype=float)
        pool = self.choices.pool(self._generator, POOL, _best(candidates, seen))
        mean, deviation = surrogate.predict(pool.rows)
        reference = np.array([self.choices.budget_bytes, pool.most_flops], dtype=float)[:costs]
        gain = expected_improvement(
            mean, deviation, pool.costs[:, :costs].astype(float), paid[:, :costs], seen, reference
        )
        return _first_new(pool, np.argsort(-gain, kind="stable"), done) or from_strata(
            self.choices, [c.counted_bytes for c in candidates], done, self._generator
        )


def _first_new(pool: Pool, order: NDArray[np.intp], done: set[str]) -> Candidate | None:
    for index in order:
        candidate = pool.at(int(index))
        if candidate.key not in done:
            return candidate
    return None


def _best(candidates: Sequence[Candidate], accuracy: Floats) -> list[Candidate]:
    """The front so far, by accuracy and memory."""
    ahead: list[Candidate] = []
    best = -np.inf
    for n in sorted(range(len(candidates)), key=lambda n: (candidates[n].counted_bytes, -accuracy[n])):
        if accuracy[n] > best:
            ahead.append(candidates[n])
            best = accuracy[n]
    return ahead


def _outcomes(trials: Sequence[FrozenTrial]) -> tuple[list[int], Floats, Floats]:
    """Which trials say something of a final accuracy, what, and with which variance beyond the common noise.

    A trial that stopped at a rung says: its accuracy there, and by how much others grew from there on.
    """
    numbers, accuracy, doubt = [], [], []
    grown: dict[int, list[float]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            for epoch, value in history(trial).items():
                grown.setdefault(epoch, []).append(trial.values[0] - value)
    for number, trial in enumerate(trials):
        if trial.state == TrialState.COMPLETE:
            numbers.append(number)
            accuracy.append(trial.values[0])
            doubt.append(0.0)
        elif trial.state == TrialState.PRUNED and history(trial):
            epoch, value = max(history(trial).items())
            more = grown.get(epoch, [])
            if len(more) >= PAIRS:
                numbers.append(number)
                accuracy.append(min(1.0, value + float(np.median(more))))
                doubt.append(float(np.var(more, ddof=1)))
    return numbers, np.array(accuracy), np.array(doubt)


def history(trial: FrozenTrial) -> Mapping[int, float]:
    """Accuracies by finished epochs, as the trial's attribute ``history`` has them."""
    return {int(epoch): float(value) for epoch, value in trial.user_attrs.get("history", {}).items()}
