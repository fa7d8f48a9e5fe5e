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
from gpytorch.constraints import Interval
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from numpy.typing import NDArray

from bsr_explorer.search.features import Floats
from bsr_explorer.search.kernels import Factors, Rising, inputs, kernel

CAUTION = 2.0
"""So many times the noise that was fitted is expected of accuracies where they are predicted. The fit itself calls for
1; with 2, few data count less, and the samplers were measured so (``benchmarks/samplers.py``)."""

GROUP = 16
"""Configurations that are predicted together."""


@dataclass(frozen=True)
class Surrogate:
    """A fitted process.

    Attributes:
        model: of accuracies, less the ``offset``, in units of ``scale``.
        depth: blocks of the model that is fine-tuned.
        offset, scale: of the accuracies.
        prior: of an earlier study, whose guess is one of the inputs.
        proxies: fidelities that speak for the target, which is number 0.
    """

    model: BatchedMultiOutputGPyTorchModel
    depth: int
    offset: float
    scale: float
    prior: Surrogate | None = None
    proxies: int = 0

    @classmethod
    def fit(
        cls,
        rows: Floats,
        accuracy: Floats,
        doubt: Floats,
        depth: int,
        prior: Surrogate | None = None,
        fidelity: Numbers | None = None,
        proxies: int = 0,
    ) -> Surrogate:
        """Fit to accuracies of configurations.

        Args:
            rows: (n, width) of ``features.Table``.
            accuracy: (n,) in [0, 1].
            doubt: (n,) variance of each accuracy beyond the noise that is learned.
            prior: of an earlier study, as a first guess.
            fidelity: (n,) at which each was found, from 0 (the target, once at least) to ``proxies``.
        """
        fidelity = np.zeros(len(rows), dtype=np.int64) if fidelity is None else fidelity
        offset = float((accuracy[fidelity == 0] if (fidelity == 0).any() else accuracy).mean())
        levels = [
            float(accuracy[fidelity == level].mean()) if (fidelity == level).any() else offset
            for level in range(proxies + 1)
        ]
        centred = accuracy - np.array(levels)[fidelity] if proxies else accuracy
        scale = max(float(centred.std()), 1e-3)
        likelihood = FixedNoiseGaussianLikelihood(
            torch.from_numpy(doubt / scale**2 + 1e-6),
            learn_additional_noise=True,
            noise_prior=LogNormalPrior(-2.5, 1.0),
            noise_constraint=Interval(1e-5, 0.5, initial_value=0.02),
        )
        factors = Factors(proxies) if proxies else None
        model = SingleTaskGP(
            torch.from_numpy(_seen(rows, depth, prior, fidelity if proxies else None)),
            torch.from_numpy((accuracy - offset) / scale)[:, None],
            likelihood=likelihood,
            covar_module=kernel(depth, rows.shape[1] - 2 * depth - 4, factors),
            mean_module=Rising(
                prior is not None, [(level - offset) / scale for level in levels[1:]], factors
            ),
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
        return cls(model, depth, offset, scale, prior, proxies)

    def believing(self, rows: Floats, fidelity: Numbers | None = None) -> Surrogate:
        """The same after configurations had come out as they are expected to, as surely as what is known best
        (without a new fit)."""
        x = self._inputs(rows, fidelity)
        expected = self.model.posterior(x).mean
        noise = self.model.likelihood.noise_covar.noise.min().expand_as(expected)
        return replace(self, model=self.model.condition_on_observations(x, expected, noise=noise))

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of true accuracies at the target, (n,) each."""
        x = self._inputs(rows)
        # A posterior is joint, and takes the square of its points: few at once, and many such groups.
        groups = x[torch.arange(-(-len(x) // GROUP) * GROUP) % len(x)].reshape(-1, GROUP, x.shape[1])
        posterior = self.model.posterior(groups)
        mean, variance = (each.reshape(-1)[: len(x)].numpy() for each in (posterior.mean, posterior.variance))
        return self.offset + self.scale * mean, self.scale * np.sqrt(variance)

    def explained(self, rows: Floats) -> Floats:
        """(n, 1 + proxies): of what is not known of each configuration's accuracy at the target, the share of the
        variance that a training at each fidelity would explain."""
        there = [self._inputs(rows, np.full(len(rows), level)) for level in range(self.proxies + 1)]
        joint = self.model(torch.stack(there, dim=1)).covariance_matrix
        noise = self.model.likelihood.second_noise
        heard = joint.diagonal(dim1=1, dim2=2) + noise
        share: Floats = (joint[:, 0] ** 2 / (heard * joint[:, :1, 0])).numpy()
        return share

    def _inputs(self, rows: Floats, fidelity: Numbers | None = None) -> torch.Tensor:
        there = np.zeros(len(rows), dtype=np.int64) if fidelity is None else fidelity
        return torch.from_numpy(_seen(rows, self.depth, self.prior, there if self.proxies else None))


Numbers = NDArray[np.int64]


def _seen(rows: Floats, depth: int, prior: Surrogate | None, fidelity: Numbers | None) -> Floats:
    """``inputs``; what an earlier study guesses, in standard deviations of its accuracies; the number of the
    fidelity."""
    seen = [inputs(rows, depth)]
    if prior is not None:
        seen.append(((prior.predict(rows)[0] - prior.offset) / prior.scale)[:, None])
    if fidelity is not None:
        seen.append(fidelity[:, None].astype(float))
    return np.concatenate(seen, axis=1)
