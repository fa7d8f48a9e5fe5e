"""The surrogate: a Gaussian process that predicts the accuracy of untrained configurations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from botorch.exceptions.warnings import OptimizationWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.gpytorch import BatchedMultiOutputGPyTorchModel
from gpytorch.constraints import GreaterThan, Interval, Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior

from bsr_explorer.search.features import Floats

NEIGHBOURS = 1.5
"""Blocks so far apart do much the same work: the width of the smoothing along the depth."""

SUMMARY = 9

RISING = (0, 3)
"""Columns of ``inputs`` that accuracy rises with in any model: the square root of the share that trains, and the
tokens on average, both from 0 to 1."""

RISE = 3.0
"""How far it typically rises from 0 to 1, in standard deviations of the accuracies: what data say counts more."""

GUESS = 0.7
"""How far accuracy typically rises where an earlier study's rises by a standard deviation of its own, in standard
deviations too: a correlation."""

CAUTION = 2.0
"""So many times the noise that was fitted is expected of accuracies where they are predicted. The fit itself calls for
1; with 2, few data count less, and the samplers were measured so (``benchmarks/samplers.py``)."""

GROUP = 16
"""Configurations that are predicted together."""


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


def kernel(depth: int, ways: int) -> Kernel:
    """Covariance of accuracies: of alike summaries, and of alike profiles beyond that; both the more, the more alike
    tensors are stored."""
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
    return coarse + fine


class Rising(Mean):  # type: ignore[misc, unused-ignore]
    """Mean of accuracies: a constant, and more the more trains, the more tokens are seen, and the more an earlier study
    guesses, where there is one.

    What is known before any trial, and what a few of them in a space of thousands do not say: where nothing near has
    been tried, a process without it expects the average, and may pass over all that trains most for its memory.
    """

    def __init__(self, guessed: bool) -> None:
        """``guessed``: whether the last column of the inputs is such a guess."""
        super().__init__()
        self.columns = [*RISING, *([-1] if guessed else [])]
        typical = [RISE] * len(RISING) + [GUESS] * guessed
        start = torch.tensor(typical, dtype=torch.float64)
        self.constant = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
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
        return self.constant + x[..., self.columns] @ self.slope


@dataclass(frozen=True)
class Surrogate:
    """A fitted process.

    Attributes:
        model: of accuracies, less the ``offset``, in units of ``scale``.
        depth: blocks of the model that is fine-tuned.
        offset, scale: of the accuracies.
        prior: of an earlier study, whose guess is the last of the inputs.
    """

    model: BatchedMultiOutputGPyTorchModel
    depth: int
    offset: float
    scale: float
    prior: Surrogate | None = None

    @classmethod
    def fit(
        cls, rows: Floats, accuracy: Floats, doubt: Floats, depth: int, prior: Surrogate | None = None
    ) -> Surrogate:
        """Fit to accuracies of configurations.

        Args:
            rows: (n, width) of ``features.Table``.
            accuracy: (n,) in [0, 1].
            doubt: (n,) variance of each accuracy beyond the noise that is learned.
            prior: of an earlier study, as a first guess.
        """
        offset, scale = float(accuracy.mean()), max(float(accuracy.std()), 1e-3)
        likelihood = FixedNoiseGaussianLikelihood(
            torch.from_numpy(doubt / scale**2 + 1e-6),
            learn_additional_noise=True,
            noise_prior=LogNormalPrior(-2.5, 1.0),
            noise_constraint=Interval(1e-5, 0.5, initial_value=0.02),
        )
        model = SingleTaskGP(
            torch.from_numpy(_with_guess(rows, depth, prior)),
            torch.from_numpy((accuracy - offset) / scale)[:, None],
            likelihood=likelihood,
            covar_module=kernel(depth, rows.shape[1] - 2 * depth - 4),
            mean_module=Rising(prior is not None),
            outcome_transform=None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizationWarning)
            fit_gpytorch_mll(
                ExactMarginalLogLikelihood(model.likelihood, model),
                optimizer_kwargs={"options": {"maxiter": 60}},
            )
        model.requires_grad_(False)
        likelihood.noise = likelihood.noise_covar.noise + (CAUTION - 1) * likelihood.second_noise
        return cls(model, depth, offset, scale, prior)

    def believing(self, rows: Floats) -> Surrogate:
        """The same after configurations had come out as they are expected to, as surely as what is known best
        (without a new fit)."""
        x = torch.from_numpy(_with_guess(rows, self.depth, self.prior))
        expected = self.model.posterior(x).mean
        noise = self.model.likelihood.noise_covar.noise.min().expand_as(expected)
        return replace(self, model=self.model.condition_on_observations(x, expected, noise=noise))

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of true accuracies, (n,) each."""
        x = _with_guess(rows, self.depth, self.prior)
        # A posterior is joint, and takes the square of its points: few at once, and many such groups.
        groups = np.resize(x, (-(-len(x) // GROUP), GROUP, x.shape[1]))
        posterior = self.model.posterior(torch.from_numpy(groups))
        mean, variance = (each.reshape(-1)[: len(x)].numpy() for each in (posterior.mean, posterior.variance))
        return self.offset + self.scale * mean, self.scale * np.sqrt(variance)


def _with_guess(rows: Floats, depth: int, prior: Surrogate | None) -> Floats:
    """``inputs``, and what an earlier study guesses, in standard deviations of its accuracies."""
    seen = inputs(rows, depth)
    if prior is None:
        return seen
    guess = (prior.predict(rows)[0] - prior.offset) / prior.scale
    return np.concatenate([seen, guess[:, None]], axis=1)
