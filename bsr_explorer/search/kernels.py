"""What the surrogate takes for granted: which configurations are alike, and what accuracy rises with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gpytorch import Module
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.means import Mean
from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior
from linear_operator import to_dense

from bsr_explorer.search.features import Floats

NEIGHBOURS = 1.5
"""Blocks so far apart do much the same work: the width of the smoothing along the depth."""

SUMMARY = 9

RISING = (0, 3)
"""Columns of ``inputs`` that accuracy rises with in any model: the square root of the share that trains, and the
tokens on average, both from 0 to 1."""

RISE = 3.0
"""How far it typically rises from 0 to 1, in standard deviations of the accuracies: what data say counts more."""

TURN = 1.0
"""How much more accuracy typically rises at a proxy than it should, from 0 to 1 of what it rises with: a small image is
unkind to what drops tokens, few images to what trains much."""

CHANCE = 0.15
"""How much accuracies at a proxy typically differ from what else is known of it, in variances of the accuracies."""

FACTOR = 0.3
"""How far the natural logarithm of a proxy's factor typically is from 0: see ``AcrossFidelities``."""

GUESS = 0.7
"""How far accuracy typically rises where an earlier study's rises by a standard deviation of its own, in standard
deviations too: a correlation."""


def inputs(rows: Floats, depth: int) -> Floats:
    """What the kernel sees of rows of ``features.Table``: a summary (how much trains, how far down, how high on
    average; tokens on average, and at the end; fused, below, lr, batch), the depth profile of what trains, smoothed
    over neighbouring blocks, the profile of tokens, and how tensors are stored."""
    trained, tokens, rest = rows[:, :depth], rows[:, depth : 2 * depth], rows[:, 2 * depth :]
    share = trained.mean(axis=1)
    some = trained > 0
    lowest = np.where(some.any(axis=1), some.argmax(axis=1), depth) / depth
    height = (trained @ np.arange(1, depth + 1)) / np.maximum(trained.sum(axis=1), 1e-9) / depth
    seen = np.exp2(tokens).mean(axis=1)
    summary = np.stack(
        [np.sqrt(share), 1 - lowest, np.where(some.any(axis=1), height, 1), seen, tokens[:, -1]], axis=1
    )
    return np.concatenate([summary, rest[:, :4], trained @ _smoothing(depth), tokens, rest[:, 4:]], axis=1)


def _smoothing(depth: int) -> Floats:
    """(depth, depth): distances after it are those of profiles whose neighbouring blocks are alike."""
    blocks = np.arange(depth)
    alike = np.exp(-((blocks[:, None] - blocks) ** 2) / (2 * NEIGHBOURS**2))
    values, vectors = np.linalg.eigh(alike)
    half: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return half


class Factors(Module):  # type: ignore[misc, unused-ignore]
    """By how much more accuracies differ at each fidelity than at the target: 1 there, and about 1 elsewhere."""

    def __init__(self, proxies: int) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(torch.zeros(proxies, dtype=torch.float64))
        self.register_prior("prior", NormalPrior(0.0, FACTOR), lambda module: module.raw)

    def forward(self) -> torch.Tensor:
        """(fidelities,)."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.raw.exp()])


def kernel(depth: int, ways: int, factors: Factors | None = None) -> Kernel:
    """Covariance of accuracies: of alike summaries, and of alike profiles beyond that; both the more, the more alike
    tensors are stored. ``factors``: of proxies, if there are any; then the last input is the number of the fidelity."""
    summary, profile = list(range(SUMMARY)), list(range(SUMMARY, SUMMARY + depth))
    tokens = list(range(SUMMARY + depth, SUMMARY + 2 * depth))
    stored = list(range(SUMMARY + 2 * depth, SUMMARY + 2 * depth + ways))

    def near(where: list[int], each: bool, typical: float) -> Kernel:
        kind = MaternKernel if each else RBFKernel
        return kind(
            active_dims=where,
            ard_num_dims=len(where) if each else None,
            lengthscale_prior=LogNormalPrior(np.log(typical), 0.7),
            lengthscale_constraint=GreaterThan(1e-2, initial_value=typical),
        )

    def same() -> Kernel:
        return near(stored, False, 2.0)

    coarse = ScaleKernel(near(summary, True, 0.7) * same(), outputscale_prior=GammaPrior(2.0, 1.5))
    fine = ScaleKernel(
        near(profile, False, 2.0) * near(tokens, False, 4.0) * same(), outputscale_prior=GammaPrior(2.0, 4.0)
    )
    if factors is None:
        return coarse + fine
    own = ScaleKernel(near(summary, True, 1.0) * same(), outputscale_prior=GammaPrior(1.5, 4.0))
    own.outputscale = 0.1
    return AcrossFidelities(coarse + fine, own, factors)


class AcrossFidelities(Kernel):  # type: ignore[misc, unused-ignore]
    """Covariance of accuracies at several fidelities, of which 0 is the target and the others are proxies of it.

    At a proxy, accuracy is the target's times a factor, and what the proxy says otherwise: something that is alike for
    alike configurations, and chance (Kennedy and O'Hagan 2000, with one stage a proxy). How far the target and a proxy
    go together is so learned, and not assumed.
    """

    def __init__(self, shared: Kernel, own: Kernel, factors: Factors) -> None:
        """``shared``: of what all fidelities have in common; ``own``: of what a proxy says otherwise."""
        super().__init__()
        self.shared, self.own, self.factors = shared, own, factors
        self.raw_chance = torch.nn.Parameter(torch.full_like(factors.raw, np.log(CHANCE)))
        self.register_prior(
            "chance_prior", NormalPrior(np.log(CHANCE), 1.0), lambda kernel: kernel.raw_chance
        )

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: Any) -> torch.Tensor:
        """Covariances of (…, n, inputs) and (…, m, inputs), the last of which is the number of the fidelity."""
        shared, own = (
            to_dense(each.forward(x1, x2, diag=diag, **params)) for each in (self.shared, self.own)
        )
        if not diag:
            x1, x2 = x1[..., :, None, :], x2[..., None, :, :]
        first, second = x1[..., -1].long(), x2[..., -1].long()
        factors = self.factors()
        chance = torch.cat([torch.zeros_like(self.raw_chance[:1]), self.raw_chance.exp()])
        at_proxy = own + chance[first] * (x1 == x2).all(-1)
        covariance: torch.Tensor = (
            factors[first] * factors[second] * shared + ((first == second) & (first > 0)) * at_proxy
        )
        return covariance


class Rising(Mean):  # type: ignore[misc, unused-ignore]
    """Mean of accuracies: a constant, and more the more trains, the more tokens are seen, and the more an earlier study
    guesses, where there is one.

    What is known before any trial, and what a few of them in a space of thousands do not say: where nothing near has
    been tried, a process without it expects the average, and may pass over all that trains most for its memory.
    """

    def __init__(self, guessed: bool, shifts: Sequence[float] = (), factors: Factors | None = None) -> None:
        """
        Args:
            guessed: whether an input is such a guess; it stands behind the others.
            shifts: by how much accuracies seem to be higher at each proxy than at the target.
            factors: of the proxies, if there are any; then the last input is the number of the fidelity.
        """
        super().__init__()
        self.factors = factors
        self.columns = [*RISING, *([-1 if factors is None else -2] if guessed else [])]
        typical = [RISE] * len(RISING) + [GUESS] * guessed
        start = torch.tensor(typical, dtype=torch.float64)
        self.constant = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        if factors is not None:
            self.shift = torch.nn.Parameter(torch.tensor(shifts, dtype=torch.float64))
            self.turn = torch.nn.Parameter(torch.zeros(len(shifts), len(RISING), dtype=torch.float64))
            self.register_prior("turn_prior", NormalPrior(0.0, TURN), lambda mean: mean.turn)
        self.raw_slope = torch.nn.Parameter(torch.zeros_like(start))
        self.register_constraint("raw_slope", Positive())
        self.raw_slope.data = self.raw_slope_constraint.inverse_transform(start)
        self.register_prior(
            "slope_prior", LogNormalPrior(start.log(), torch.full_like(start, 0.7)), lambda mean: mean.slope
        )

    @property
    def slope(self) -> torch.Tensor:
        """(rising columns,) all positive."""
        slope: torch.Tensor = self.raw_slope_constraint.transform(self.raw_slope)
        return slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) of (n, inputs)."""
        mean = self.constant + x[..., self.columns] @ self.slope
        if self.factors is None:
            return mean
        level = x[..., -1].long()
        shift, turn = (torch.cat([torch.zeros_like(own[:1]), own])[level] for own in (self.shift, self.turn))
        here: torch.Tensor = self.factors()[level] * mean + shift + (turn * x[..., list(RISING)]).sum(-1)
        return here
