"""What a sampler chooses among: configurations whose costs are known before they are trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.search.features import Floats

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from bsr_explorer.search.prior import Prior

STRATA = 6
"""Equal steps of the logarithm of memory, from the smallest configuration to the budget."""

TRIES = 50
"""Random configurations to look at in a stratum before another one."""


@dataclass(frozen=True)
class Candidate:
    """A configuration with what is known of it before it is trained.

    Attributes:
        proxy: number of the proxy of the target's fidelity at which it is trained; 0: at the target.
    """

    config: Config
    key: str
    counted_bytes: int
    train_flops: int
    proxy: int = 0

    @property
    def place(self) -> str:
        """What is trained only once: the configuration, at a fidelity."""
        return placed(self.key, self.proxy)


def placed(key: str, proxy: int) -> str:
    """See ``Candidate.place``."""
    return f"{key} at proxy {proxy}" if proxy else key


@dataclass(frozen=True)
class Pool:
    """Many configurations within the budget.

    Attributes:
        rows: (n, width) of ``features.Table``.
        costs: (n, 2) counted bytes and training FLOPs.
        most_flops: up to which FLOPs count.
        at: the configuration of a row.
    """

    rows: Floats
    costs: NDArray[np.int64]
    most_flops: int
    at: Callable[[int], Candidate]


class Choices(Protocol):
    """A space, or a table of known outcomes.

    Attributes:
        depth: blocks of the model.
        known: configurations to try before all others.
        prior: what an earlier study found, if there is one.
        efforts: (1 + proxies,) of the target's fidelity and of each of its proxies: how long a training takes for each
            training FLOP of its configuration. (What counts is how they compare.)
    """

    depth: int
    known: list[Candidate]
    prior: Prior | None
    efforts: Floats

    @property
    def budget_bytes(self) -> int:
        """The most memory."""
        ...

    @property
    def range_bytes(self) -> tuple[int, int]:
        """Least and most memory of any configuration."""
        ...

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna's parameters, one fixed encoding."""
        ...

    def encode(self, candidate: Candidate) -> dict[str, Any]:
        """Optuna's parameters of a configuration."""
        ...

    def decode(self, params: dict[str, Any]) -> Candidate:
        """The configuration of Optuna's parameters."""
        ...

    def asked(self, params: dict[str, Any], done: Collection[str]) -> Candidate:
        """The configuration that a sampler asks for, which is not to be one of ``done``, if that can be helped."""
        ...

    def fits(self, candidate: Candidate) -> bool:
        """Whether a configuration is within the budget."""
        ...

    def rows(self, candidates: Sequence[Candidate]) -> Floats:
        """(n, width) of ``features.Table``."""
        ...

    def pool(self, generator: np.random.Generator, most: int, near: Sequence[Candidate]) -> Pool:
        """Up to about so many configurations within the budget, and the neighbours of some."""
        ...

    def sample(self, generator: np.random.Generator, low: float, high: float) -> Candidate | None:
        """A random configuration within the budget whose memory is in [low, high] bytes, or None."""
        ...

    def each(self, generator: np.random.Generator) -> Iterator[Candidate]:
        """Every configuration within the budget, in random order."""
        ...


NO_PROXIES: Floats = np.ones(1)
"""The ``efforts`` where all is trained at one fidelity."""


def from_strata(
    choices: Choices, sizes: Sequence[float], done: set[str], generator: np.random.Generator
) -> Candidate | None:
    """A random new configuration from the stratum of memory that has been tried least, or None if nothing is left.

    Args:
        sizes: counted bytes of what has been tried.
    """
    low, high = choices.range_bytes[0], min(choices.budget_bytes, choices.range_bytes[1])
    edges = np.geomspace(low, high + 1, STRATA + 1)
    tried, _ = np.histogram(sizes, edges)
    for stratum in np.lexsort((generator.random(STRATA), tried)):
        for _ in range(TRIES):
            candidate = choices.sample(generator, edges[stratum] - 1, edges[stratum + 1] + 1)
            if candidate is None:
                break
            if candidate.key not in done:
                return candidate
    return next((c for c in choices.each(generator) if c.key not in done), None)
