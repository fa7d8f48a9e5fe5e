"""What the surrogate takes for granted, where accuracies come from several fidelities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear_operator import to_dense

from bsr_explorer.search.features import Floats
from bsr_explorer.search.kernels import Factors, Rising, inputs, kernel
from bsr_explorer.search.surrogate import Surrogate
from tests.search.test_surrogate import DEPTH, accuracy, configurations


def at(rows: Floats, fidelity: int) -> torch.Tensor:
    """Inputs of rows at a fidelity."""
    return torch.from_numpy(np.concatenate([inputs(rows, DEPTH), np.full((len(rows), 1), fidelity)], axis=1))


def covariance(of: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(to_dense(of(x, x)))


def test_covariances_are_those_of_a_process() -> None:
    rows = configurations(12)
    x = torch.cat([at(rows, level) for level in (0, 1, 2)])
    of = kernel(DEPTH, 2, Factors(2))
    of.factors.raw.data = torch.tensor([0.3, -0.2], dtype=torch.float64)
    full = covariance(of, x)
    assert torch.allclose(full, full.T)
    assert torch.linalg.eigvalsh(full).min() > -1e-8
    with torch.no_grad():
        assert torch.allclose(torch.as_tensor(to_dense(of(x, x, diag=True))), full.diagonal())


def test_at_the_target_it_is_the_kernel_of_a_single_fidelity() -> None:
    rows = configurations(10)
    alone, several = kernel(DEPTH, 2), kernel(DEPTH, 2, Factors(1))
    single = torch.from_numpy(inputs(rows, DEPTH))
    assert torch.allclose(covariance(several, at(rows, 0)), covariance(alone, single))


def test_a_proxy_says_what_the_target_says_times_a_factor_and_something_of_its_own() -> None:
    rows = configurations(10)
    of = kernel(DEPTH, 2, Factors(1))
    of.factors.raw.data = torch.log(torch.tensor([2.0], dtype=torch.float64))
    full = covariance(of, torch.cat([at(rows, 0), at(rows, 1)]))
    target, across, proxy = full[:10, :10], full[:10, 10:], full[10:, 10:]
    assert torch.allclose(across, 2 * target)
    assert torch.linalg.eigvalsh(proxy - 4 * target).min() > -1e-8
    assert (proxy.diagonal() > 4 * target.diagonal()).all()


def test_the_mean_is_scaled_and_shifted_at_a_proxy() -> None:
    rows = configurations(5)
    factors = Factors(1)
    mean = Rising(False, [-3.0], factors)
    factors.raw.data = torch.log(torch.tensor([0.5], dtype=torch.float64))
    with torch.no_grad():
        assert torch.allclose(mean(at(rows, 1)), 0.5 * mean(at(rows, 0)) - 3)
        assert torch.allclose(Rising(False)(torch.from_numpy(inputs(rows, DEPTH))), mean(at(rows, 0)))


# --- what a surrogate makes of it -----------------------------------------------------------------------


def proxied(rows: Floats) -> Floats:
    """A proxy: lower, less spread, and unkind to what drops tokens."""
    return 0.1 + 0.6 * accuracy(rows) + 0.06 * rows[:, 2 * DEPTH - 1]


def fitted(values: Floats, rows: Floats, few: int) -> Surrogate:
    """Of a few accuracies at the target, and of ``values`` at a proxy."""
    generator = np.random.default_rng(2)
    both = np.concatenate([rows[:few], rows])
    level = np.array([0] * few + [1] * len(rows))
    seen = np.concatenate([accuracy(rows[:few]), values]) + generator.normal(0, 0.003, len(both))
    return Surrogate.fit(both, seen, np.zeros(len(both)), DEPTH, fidelity=level, proxies=1)


def error(of: Surrogate) -> float:
    others = configurations(300, seed=5)
    return float(np.sqrt(((of.predict(others)[0] - accuracy(others)) ** 2).mean()))


@pytest.mark.thorough
def test_a_proxy_helps_though_it_is_lower_and_unkind_to_drops() -> None:
    alone, helped = [], []
    for seed in range(3):
        rows = configurations(24, seed)
        for few in (3, 5, 8):
            alone.append(error(Surrogate.fit(rows[:few], accuracy(rows[:few]), np.zeros(few), DEPTH)))
            helped.append(error(fitted(proxied(rows), rows, few)))
    assert np.mean(helped) < 0.85 * np.mean(alone)
    assert np.median(np.array(helped) / alone) < 0.85


@pytest.mark.thorough
def test_a_proxy_that_says_nothing_is_hardly_believed() -> None:
    alone, misled, shares = [], [], []
    for seed in range(3):
        rows, others = configurations(24, seed), configurations(40, seed=5)
        noise = np.random.default_rng(7 + seed).normal(0.5, 0.06, len(rows))
        alone.append(error(Surrogate.fit(rows[:8], accuracy(rows[:8]), np.zeros(8), DEPTH)))
        misled.append(error(fitted(noise, rows, 8)))
        shares.append([fitted(v, rows, 8).explained(others)[:, 1].mean() for v in (noise, proxied(rows))])
    assert np.mean(misled) < 1.5 * np.mean(alone)
    of_noise, of_proxy = np.mean(shares, axis=0)
    assert of_noise < 0.8 * of_proxy


@pytest.mark.thorough
@pytest.mark.parametrize("proxies", [0, 1])
def test_what_is_explained_is_a_share(proxies: int) -> None:
    rows = configurations(16)
    of = (
        fitted(proxied(rows), rows, 6)
        if proxies
        else Surrogate.fit(rows, accuracy(rows), np.zeros(16), DEPTH)
    )
    shares = of.explained(configurations(40, seed=5))
    assert shares.shape == (40, 1 + proxies)
    assert (shares >= 0).all()
    assert (shares <= 1 + 1e-9).all()


@pytest.mark.thorough
def test_what_was_trained_at_a_proxy_has_little_more_to_say_there() -> None:
    rows = configurations(24)
    of = fitted(proxied(rows), rows, 6)
    fresh = of.explained(configurations(40, seed=5))[:, 1].mean()
    assert of.explained(rows[6:])[:, 1].mean() < fresh
