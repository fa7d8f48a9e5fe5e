"""The exact-cost sampler: only a configuration's score is learned, for memory and FLOPs are known.

An ordinary sampler of Optuna: what it proposes is always within the budget and new.

Where there are proxies of the target's fidelity, it also chooses at which one to train, and begins at the cheapest. A
training is worth the improvement of the front that is expected of its configuration, times the share of what is not
known of it that the training would explain, a second of training (Huang and others 2006, with a process that learns how
far a proxy and the target go together). The front is the one that is expected at the target, of all that was trained
anywhere. Its members that were trained at a proxy alone are trained at the target before the trials are used up: what a
study hands over was trained at the target.
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
"""Trials that went on after a rung, from which on it is known what a rung says of the end."""

LOOKED_AT = 256
"""Configurations whose trainings at every fidelity are weighed against each other."""


class ExactCostSampler(BaseSampler):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Proposes the configuration whose expected growth of the front's hypervolume is largest.

    A Gaussian process learns the score (an accuracy, or one over a perplexity: see ``quality``); memory is exact, and
    so are training FLOPs, where a study has them as its third objective. Running trials count as if they would come out
    as expected, so that parallel workers get different proposals.

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
        self,
        trials: Sequence[FrozenTrial],
        costs: int = 1,
        done: Collection[str] = (),
        closing: bool = False,
    ) -> Candidate | None:
        """The next configuration, and where to train it.

        Args:
            trials: those with an outcome, and those that are running.
            costs: 1 (memory) or 2 (and training FLOPs).
            done: ``place`` of what else is not to be proposed: what has failed.
            closing: whether what is expected on the front, and was trained at a proxy alone, comes before all else.
        """
        candidates = self._candidates(trials)
        proxies = len(self.choices.efforts) - 1
        begun = {c.place for c in candidates} | set(done)
        numbers, scores, doubt = _outcomes(trials)
        start = START if self.choices.prior is None else GUIDED
        ended = [n for n in numbers if candidates[n].proxy or trials[n].state == TrialState.COMPLETE]
        if len({candidates[n].key for n in ended}) < start:
            return self._from_strata(candidates, done, proxies)
        rows = self.choices.rows(candidates)
        surrogate = self._fitted(rows, candidates, numbers, scores, doubt)
        # What is seen is believed as the surrogate believes it: without its noise.
        seen, doubted = surrogate.predict(rows)
        at_target = sum(not c.proxy for c in candidates)
        if closing:
            behind = _behind(candidates, seen, doubted, begun)
            if behind is not None:
                return behind
        paid = np.array([(c.counted_bytes, c.train_flops) for c in candidates], dtype=float)
        pool = self.choices.pool(self._generator, POOL, _best(candidates, seen))
        mean, deviation = surrogate.predict(pool.rows)
        reference = np.array([self.choices.budget_bytes, pool.most_flops], dtype=float)[:costs]
        gain = expected_improvement(
            mean, deviation, pool.costs[:, :costs].astype(float), paid[:, :costs], seen, reference
        )
        only = len(candidates) - at_target >= PROXIES_A_TRIAL * max(start, at_target)
        order = self._order(gain, pool, surrogate, only)
        return _first_new(pool, order, begun, self.choices.fits) or self._from_strata(candidates, done)

    def expected_front(self, trials: Sequence[FrozenTrial]) -> list[Candidate]:
        """The front of all that was trained anywhere, by the scores that are expected of it at the target."""
        candidates = self._candidates(trials)
        rows = self.choices.rows(candidates)
        surrogate = self._fitted(rows, candidates, *_outcomes(trials))
        return _best(candidates, surrogate.predict(rows)[0])

    def _candidates(self, trials: Sequence[FrozenTrial]) -> list[Candidate]:
        return [replace(self.choices.decode(trial.params), proxy=proxy_of(trial)) for trial in trials]

    def _fitted(
        self,
        rows: Floats,
        candidates: Sequence[Candidate],
        numbers: Sequence[int],
        scores: Floats,
        doubt: Floats,
    ) -> Surrogate:
        """What ``_outcomes`` teach; what has none is believed to come out as expected."""
        proxy = np.array([c.proxy for c in candidates], dtype=np.int64)
        prior = None if self.choices.prior is None else self.choices.prior.fitted(self.choices)
        proxies = len(self.choices.efforts) - 1
        surrogate = Surrogate.fit(
            rows[numbers], scores, doubt, self.choices.depth, prior, proxy[numbers], proxies
        )
        waiting = [n for n in range(len(candidates)) if n not in set(numbers)]
        return surrogate.believing(rows[waiting], proxy[waiting]) if waiting else surrogate

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


def _behind(
    candidates: Sequence[Candidate], expected: Floats, doubted: Floats, begun: Collection[str]
) -> Candidate | None:
    """Of the front that is expected at the target, the least known one that was trained at a proxy alone."""
    doubts = {c.key: doubt for c, doubt in zip(candidates, doubted, strict=True)}
    missing = [replace(c, proxy=0) for c in _best(candidates, expected)]
    missing = [c for c in missing if c.place not in begun]
    return max(missing, key=lambda c: doubts[c.key], default=None)


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


def _best(candidates: Sequence[Candidate], scores: Floats) -> list[Candidate]:
    """The front so far, by score and memory."""
    ahead: list[Candidate] = []
    best = -np.inf
    for n in sorted(range(len(candidates)), key=lambda n: (candidates[n].counted_bytes, -scores[n])):
        if scores[n] > best:
            ahead.append(candidates[n])
            best = scores[n]
    return ahead


def _outcomes(trials: Sequence[FrozenTrial]) -> tuple[list[int], Floats, Floats]:
    """Which trials say something of a final score, what, and with which variance beyond the common noise.

    A trial that stopped at a rung says: its score there, and by how much others grew from there on.
    """
    numbers, scores, doubt = [], [], []
    grown: dict[int, list[float]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            for epoch, value in history(trial).items():
                grown.setdefault(epoch, []).append(trial.values[0] - value)
    for number, trial in enumerate(trials):
        if proxy_of(trial):
            if history(trial):
                numbers.append(number)
                scores.append(history(trial)[max(history(trial))])
                doubt.append(0.0)
        elif trial.state == TrialState.COMPLETE:
            numbers.append(number)
            scores.append(trial.values[0])
            doubt.append(0.0)
        elif trial.state == TrialState.PRUNED and history(trial):
            epoch, value = max(history(trial).items())
            more = grown.get(epoch, [])
            if len(more) >= PAIRS:
                numbers.append(number)
                scores.append(min(1.0, value + float(np.median(more))))
                doubt.append(float(np.var(more, ddof=1)))
    return numbers, np.array(scores), np.array(doubt)


def history(trial: FrozenTrial) -> Mapping[int, float]:
    """Scores by finished epochs, as the trial's attribute ``history`` has them."""
    return {int(epoch): float(value) for epoch, value in trial.user_attrs.get("history", {}).items()}
