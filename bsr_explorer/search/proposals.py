"""What to train next: known configurations, then strata of memory, then a sampler.

Whatever proposes, nothing over the budget and nothing trained before comes out of here.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from bsr_explorer.search.space import Candidate, Space

STRATA = 6
"""Equal steps of the logarithm of memory, from the smallest configuration to the budget."""

SAMPLER_FROM = 16
"""Finished trials from which on a sampler has something to learn from."""

TRIES = 50
"""Proposals of a sampler to look at before giving up on it for this trial."""


class Sampler(Protocol):
    """Proposes from what is known so far. What is over budget, done or not of the space is not taken."""

    def propose(self, space: Space, finished: Sequence[FrozenTrial], seed: int) -> Candidate | None:
        """A configuration, or None for none."""
        ...


class TpeSampler:
    """Optuna's default for two objectives, asked on a study in memory, so that what it proposes in vain
    leaves no trial behind."""

    def propose(self, space: Space, finished: Sequence[FrozenTrial], seed: int) -> Candidate | None:
        """TPE's next point that is within the budget and new; None if it insists on others."""
        # What is asked and not told counts as bad, so that TPE does not repeat itself.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
        scratch = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        scratch.add_trials(finished)
        done = {space.decode(trial.params).key for trial in finished}
        for _ in range(TRIES):
            candidate = space.decode(scratch.ask(space.distributions).params)
            if space.fits(candidate) and candidate.key not in done:
                return candidate
        return None


def propose(
    space: Space, sampler: Sampler, finished: Sequence[FrozenTrial], done: set[str], seed: int
) -> Candidate | None:
    """The next configuration to train, within the budget and not in ``done``; None if there is none left.

    Args:
        finished: trials with values (accuracy, counted bytes).
        done: keys of all configurations that must not be trained again.
        seed: of this proposal alone.
    """
    for candidate in space.known:
        if space.fits(candidate) and candidate.key not in done:
            return candidate
    generator = np.random.default_rng(seed)
    if len(finished) >= SAMPLER_FROM:
        proposed = sampler.propose(space, finished, seed)
        if proposed and space.holds(proposed) and space.fits(proposed) and proposed.key not in done:
            return proposed
    return _stratified(space, [trial.values[1] for trial in finished], done, generator)


def _stratified(
    space: Space, sizes: Sequence[float], done: set[str], generator: np.random.Generator
) -> Candidate | None:
    """A random new configuration from the stratum of memory that has been tried least; when the grid has
    no more, one that lies beside it."""
    low, high = space.range_bytes[0], min(space.study.budget_bytes, space.range_bytes[1])
    edges = np.geomspace(low, high + 1, STRATA + 1)
    tried, _ = np.histogram(sizes, edges)
    for stratum in np.lexsort((generator.random(STRATA), tried)):
        for _ in range(TRIES):
            candidate = space.sample(generator, edges[stratum] - 1, edges[stratum + 1] + 1)
            if candidate is None:
                break
            if candidate.key not in done:
                return candidate
    left = itertools.chain(space.shuffled(generator, low, high), filter(space.fits, space.beside))
    return next((c for c in left if c.key not in done), None)


def derived_seed(*parts: object) -> int:
    """32 bits that depend on all parts, the same in every process."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
