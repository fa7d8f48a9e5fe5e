"""The surrogate: learns, says what it does not know, and believes what is running."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bsr_explorer.search.features import Floats
from bsr_explorer.search.kernels import RISING, inputs
from bsr_explorer.search.surrogate import GROUP, Surrogate

DEPTH = 6


def configurations(count: int, seed: int = 0) -> Floats:
    """Rows of random configurations of 6 blocks, stored in two ways."""
    generator = np.random.default_rng(seed)
    trained = (generator.random((count, DEPTH)) < 0.4).astype(float)
    tokens = np.cumsum(np.where(generator.random((count, DEPTH)) < 0.2, -0.5, 0.0), axis=1)
    rest = np.zeros((count, 4))
    rest[:, 0], rest[:, 3] = tokens[:, -1] < 0, 5
    way = generator.random(count) < 0.3
    return np.concatenate([trained, tokens, rest, np.stack([~way, way], axis=1)], axis=1)


def accuracy(rows: Floats) -> Floats:
    """Saturates in what trains, less with few tokens and in the second way to store."""
    useful = rows[:, :DEPTH] @ np.linspace(0.5, 1.5, DEPTH) / DEPTH
    return 0.5 + 0.3 * (1 - np.exp(-3 * useful)) + 0.04 * rows[:, 2 * DEPTH - 1] - 0.05 * rows[:, -1]


@pytest.fixture(scope="module")
def fitted() -> tuple[Floats, Floats, Surrogate]:
    rows = configurations(40)
    values = accuracy(rows) + np.random.default_rng(1).normal(0, 0.004, len(rows))
    return rows, values, Surrogate.fit(rows, values, np.zeros(len(rows)), DEPTH)


def test_it_predicts_what_it_has_not_seen(fitted: tuple[Floats, Floats, Surrogate]) -> None:
    _, _, surrogate = fitted
    others = configurations(300, seed=5)
    mean, deviation = surrogate.predict(others)
    error = mean - accuracy(others)
    assert np.sqrt((error**2).mean()) < 0.4 * accuracy(others).std()
    assert np.abs(error / deviation).mean() < 2  # and knows how far off it may be
    assert (deviation > 0).all()


def test_more_is_expected_of_more_that_trains_and_of_more_tokens_where_nothing_near_was_tried() -> None:
    rows = configurations(400, seed=4)
    rows[:, 3:DEPTH] = 0  # at most 3 blocks
    poor = rows[rows[:, 2 * DEPTH - 1] < -0.4][:10]
    surrogate = Surrogate.fit(poor, accuracy(poor), np.zeros(10), DEPTH)
    all_of_it = poor[:1].copy()
    all_of_it[:, :DEPTH] = 1
    all_tokens = poor[:1].copy()
    all_tokens[:, DEPTH : 2 * DEPTH + 1] = 0
    both = all_of_it.copy()
    both[:, DEPTH : 2 * DEPTH + 1] = 0
    known, trained, seen, most = surrogate.predict(np.concatenate([poor[:1], all_of_it, all_tokens, both]))[0]
    assert trained > known
    assert seen > known
    assert most > max(trained, seen)
    assert most > accuracy(poor).max()


def test_data_that_say_otherwise_are_believed() -> None:
    rows, others = configurations(40), configurations(300, seed=5)
    mean, _ = Surrogate.fit(rows, 1 - accuracy(rows), np.zeros(40), DEPTH).predict(others)
    assert np.sqrt(((mean - 1 + accuracy(others)) ** 2).mean()) < 0.5 * accuracy(others).std()


def test_what_accuracy_rises_with_is_from_0_to_1() -> None:
    rows = np.zeros((3, 2 * DEPTH + 5))
    rows[1, 2], rows[2, :DEPTH] = 1, 1
    rows[1, DEPTH + 3 : 2 * DEPTH] = -1
    assert np.allclose(inputs(rows, DEPTH)[:, RISING], [[0, 1], [DEPTH**-0.5, 0.75], [1, 1]])


def test_it_is_sure_of_what_it_has_seen_often(fitted: tuple[Floats, Floats, Surrogate]) -> None:
    rows, values, surrogate = fitted
    _, before = surrogate.predict(rows[:1])
    again = np.repeat(rows[:1], 8, axis=0)
    more = Surrogate.fit(
        np.concatenate([rows, again]), np.concatenate([values, values[:1].repeat(8)]), np.zeros(48), DEPTH
    )
    assert more.predict(rows[:1])[1] < before


def test_doubt_makes_an_accuracy_count_less() -> None:
    rows = configurations(30, seed=2)
    values = accuracy(rows)
    values[0] += 0.2
    sure, doubtful = (
        Surrogate.fit(rows, values, np.r_[doubt, np.zeros(29)], DEPTH).predict(rows[:1])[0][0]
        for doubt in (0.0, 0.2**2)
    )
    assert abs(doubtful - accuracy(rows)[0]) < abs(sure - accuracy(rows)[0])


def test_what_is_believed_changes_no_mean_and_leaves_less_to_learn(
    fitted: tuple[Floats, Floats, Surrogate],
) -> None:
    _, _, surrogate = fitted
    others = configurations(50, seed=7)
    mean, deviation = surrogate.predict(others)
    after, left = surrogate.believing(others[:3]).predict(others)
    assert np.allclose(after, mean, atol=1e-6)
    assert (left <= deviation + 1e-9).all()
    assert (left[:3] < deviation[:3]).all()


def test_the_same_data_give_the_same_predictions(fitted: tuple[Floats, Floats, Surrogate]) -> None:
    rows, values, surrogate = fitted
    again = Surrogate.fit(rows, values, np.zeros(len(rows)), DEPTH)
    assert np.array_equal(again.predict(rows)[0], surrogate.predict(rows)[0])


def test_equal_accuracies_are_no_trouble() -> None:
    rows = configurations(8)
    mean, deviation = Surrogate.fit(rows, np.full(8, 0.7), np.zeros(8), DEPTH).predict(
        configurations(5, seed=3)
    )
    assert np.allclose(mean, 0.7, atol=0.01)
    assert np.isfinite(deviation).all()


def test_neighbouring_blocks_are_nearer_than_distant_ones() -> None:
    rows = np.zeros((3, 2 * DEPTH + 6))
    rows[0, 1], rows[1, 2], rows[2, 5] = 1, 1, 1
    profile = inputs(rows, DEPTH)[:, 9 : 9 + DEPTH]
    assert np.linalg.norm(profile[0] - profile[1]) < 0.8 * np.linalg.norm(profile[0] - profile[2])


def test_it_is_the_posterior_of_the_fitted_process() -> None:
    """Mean and deviation as they are written down: of the covariances with what was seen, and its noise."""
    rows, others = configurations(12), configurations(5, seed=3)
    surrogate = Surrogate.fit(rows, accuracy(rows), np.full(12, 1e-4), DEPTH)
    model = surrogate.model
    seen, x = (torch.from_numpy(inputs(each, DEPTH)) for each in (rows, others))
    values = torch.from_numpy((accuracy(rows) - surrogate.offset) / surrogate.scale)
    with torch.no_grad():
        covariance = model.covar_module(seen).to_dense() + torch.diag(model.likelihood.noise)
        across, prior = model.covar_module(x, seen).to_dense(), model.covar_module(x, diag=True)
        mean = model.mean_module(x) + across @ torch.linalg.solve(
            covariance, values - model.mean_module(seen)
        )
        variance = prior - (across * torch.linalg.solve(covariance, across.T).T).sum(1)
    found = surrogate.predict(others)
    assert np.allclose(found[0], surrogate.offset + surrogate.scale * mean.numpy(), atol=1e-9)
    assert np.allclose(found[1], surrogate.scale * variance.sqrt().numpy(), atol=1e-9)


@pytest.mark.parametrize("count", [1, GROUP - 1, GROUP, GROUP + 1])
def test_what_is_predicted_together_is_predicted_alike(
    fitted: tuple[Floats, Floats, Surrogate], count: int
) -> None:
    _, _, surrogate = fitted
    others = configurations(count, seed=8)
    together, alone = surrogate.predict(others), [surrogate.predict(row[None]) for row in others]
    assert together[0].shape == together[1].shape == (count,)
    assert np.allclose(together, np.concatenate([np.stack(each) for each in alone], axis=1), atol=1e-12)
