"""The exact-cost sampler: only accuracy is learned, for memory and FLOPs are known.

An ordinary sampler of Optuna: what it proposes is always within the budget and new.

Where there are proxies of the target's fidelity, it also chooses at which one to train. Trainings at a proxy are never
on the front: they only tell where the front may be. So each is worth the improvement of the front that is expected of
its configuration, times the share of what is not known of it that the training would explain, a second of training
(Huang and others 2006, with a process that learns how far a proxy and the target go together).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bsr_explorer.search.choices import Candidate, Choices, Pool, from_strata
from bsr_explorer.search.features import Floats
from bsr_explorer.search.improvement import expected_improvement
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.database import proxy_of
from bsr_explorer.store.proxies import PROXIES_A_TRIAL

START, GUIDED = 6, 3
"""Trials before the surrogate, one a stratum of memory; and where an earlier study guesses."""

POOL = 12_000
"""Configurations that the expected improvement is computed of at once."""

PAIRS = 3
"""Trials that went on after a rung, from which on it is known what a rung says of the end; and configurations that
have been trained at the target and at a proxy, from which on it is asked what the proxy says."""

LOOKED_AT = 256
"""Configurations whose trainings at every fidelity are weighed against each other."""


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
        proposed = self.propose(others, costs=len(study.directions) - 1)
        if proposed is None:
            raise optuna.TrialPruned("nothing is left that is within the budget and new")
        return self.choices.encode(proposed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is none of the space's, at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def propose(
        self, trials: Sequence[FrozenTrial], costs: int = 1, done: Collection[str] = ()
    ) -> Candidate | None:
        """The next configuration, and where to train it.

        Args:
            trials: those with an outcome, and those that are running.
            costs: 1 (memory) or 2 (and training FLOPs).
            done: ``place`` of what else is not to be proposed: what has failed.
        """
        candidates = [replace(self.choices.decode(t.params), proxy=proxy_of(t)) for t in trials]
        proxy = np.array([c.proxy for c in candidates], dtype=np.int64)
        proxies = len(self.choices.efforts) - 1
        begun = {c.place for c in candidates} | set(done)
        finished = [n for n, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
        start = START if self.choices.prior is None else GUIDED
        if len(finished) < (min(start, PAIRS) if proxies else start):
            return self._from_strata(candidates, done)
        if proxies:
            unpaired = _unpaired([candidates[n] for n in finished], begun, proxies)
            if unpaired is not None:
                return unpaired
            if len({c.key for c in candidates}) < start:
                return self._from_strata(candidates, done, proxies)
        rows = self.choices.rows(candidates)
        numbers, accuracy, doubt = _outcomes(trials)
        prior = None if self.choices.prior is None else self.choices.prior.fitted(self.choices)
        surrogate = Surrogate.fit(
            rows[numbers], accuracy, doubt, self.choices.depth, prior, proxy[numbers], proxies
        )
        waiting = [n for n in range(len(trials)) if n not in set(numbers)]
        if waiting:
            surrogate = surrogate.believing(rows[waiting], proxy[waiting])
        # What is seen is believed as the surrogate believes it: without its noise.
        seen, _ = surrogate.predict(rows)
        paid = np.array([(c.counted_bytes, c.train_flops) for c in candidates], dtype=float)
        pool = self.choices.pool(self._generator, POOL, _best(candidates, seen))
        mean, deviation = surrogate.predict(pool.rows)
        reference = np.array([self.choices.budget_bytes, pool.most_flops], dtype=float)[:costs]
        there = proxy == 0
        gain = expected_improvement(
            mean, deviation, pool.costs[:, :costs].astype(float), paid[there, :costs], seen[there], reference
        )
        only = int((proxy > 0).sum()) >= PROXIES_A_TRIAL * max(start, int(there.sum()))
        order = self._order(gain, pool, surrogate, only)
        return _first_new(pool, order, begun, self.choices.fits) or self._from_strata(candidates, done)

    def _order(
        self, gain: Floats, pool: Pool, surrogate: Surrogate, only_at_target: bool
    ) -> Iterator[tuple[int, int]]:
        """Rows of a pool, and where to train each, the best first."""
        if not surrogate.proxies:
            yield from ((int(row), 0) for row in np.argsort(-gain, kind="stable"))
            return
        seconds = pool.costs[:, 1:] * self.choices.efforts
        some = np.argsort(-gain / seconds[:, 0], kind="stable")[:LOOKED_AT]
        worth = gain[some, None] * surrogate.explained(pool.rows[some]) / seconds[some]
        if only_at_target:
            worth = worth[:, :1]
        for flat in np.argsort(-worth, axis=None, kind="stable"):
            row, level = np.unravel_index(flat, worth.shape)
            yield int(some[row]), int(level)

    def _from_strata(
        self, candidates: Sequence[Candidate], done: Collection[str], proxy: int = 0
    ) -> Candidate | None:
        sizes, tried = [c.counted_bytes for c in candidates], {c.key for c in candidates} | set(done)
        found = from_strata(self.choices, sizes, tried, self._generator)
        return None if found is None else replace(found, proxy=proxy)


def _unpaired(finished: Sequence[Candidate], begun: Collection[str], proxies: int) -> Candidate | None:
    """What has been trained at the target, and is to be trained at a proxy that too little is known of."""
    for level in range(1, proxies + 1):
        pairs = [replace(c, proxy=level) for c in finished]
        missing = [c for c in pairs if c.place not in begun]
        if missing and len(pairs) - len(missing) < PAIRS:
            return missing[0]
    return None


def _first_new(
    pool: Pool,
    order: Iterable[tuple[int, int]],
    begun: Collection[str],
    fits: Callable[[Candidate], bool],
) -> Candidate | None:
    """The first that is trained neither there nor at the target, and fits the budget (of which a pool may know no more
    than the least memory)."""
    for row, level in order:
        candidate = pool.at(row)
        there = replace(candidate, proxy=level)
        if candidate.place not in begun and there.place not in begun and fits(candidate):
            return there
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
        if proxy_of(trial):
            if history(trial):
                numbers.append(number)
                accuracy.append(history(trial)[max(history(trial))])
                doubt.append(0.0)
        elif trial.state == TrialState.COMPLETE:
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
