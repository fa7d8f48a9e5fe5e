"""The expected improvement of the front by a configuration whose accuracy alone is unknown.

The hypervolume of a front is the integral, over all costs up to a reference, of the best accuracy that is to be had
within these costs. A configuration of known costs and accuracy y adds the integral of max(0, y − best) over the costs
that are no lower than its own. With y normally distributed the expectation is a sum of closed terms, one for each
level of the front: no sampling, and no approximation of what is known.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from bsr_explorer.search.features import Floats


def expected_improvement(
    mean: Floats, deviation: Floats, costs: Floats, seen_costs: Floats, seen: Floats, reference: Floats
) -> Floats:
    """Expected growth of the hypervolume, in units of accuracy × the product of the references.

    Args:
        mean, deviation: (n,) of the accuracy of each candidate.
        costs: (n, c) of each candidate, c = 1 or 2.
        seen_costs, seen: (m, c) and (m,) costs and accuracies of what is known.
        reference: (c,) the costs up to which the front counts; the least accuracy that counts is 0.

    Returns:
        (n,), 0 for candidates that cost more than the reference.
    """
    edges, levels = _levels(seen_costs / reference, seen)
    at = np.minimum(costs / reference, 1.0)
    gain = np.zeros(len(mean))
    for level in np.unique(levels):
        gain += _expected_excess(mean - level, deviation) * _beyond(edges, levels == level, at)
    return gain


def _levels(costs: Floats, accuracy: Floats) -> tuple[list[Floats], Floats]:
    """The front as a step function: edges along each cost, from 0 to 1, and the best accuracy between them."""
    inside = (costs < 1).all(axis=1)
    costs, accuracy = costs[inside], accuracy[inside]
    edges = [np.unique(np.concatenate([[0.0], costs[:, c], [1.0]])) for c in range(costs.shape[1])]
    best = np.zeros([len(edge) - 1 for edge in edges])
    for each, value in zip(costs, accuracy, strict=True):
        from_ = tuple(
            slice(int(np.searchsorted(edge, cost)), None) for edge, cost in zip(edges, each, strict=True)
        )
        np.maximum(best[from_], value, out=best[from_])
    return edges, best


def _beyond(edges: list[Floats], where: Floats, at: Floats) -> Floats:
    """(n,) measure of the marked cells beyond each point: exact, for between edges it is linear in each cost."""
    measure = where.astype(float)
    for axis, edge in enumerate(edges):
        widths = np.diff(edge).reshape([-1 if a == axis else 1 for a in range(len(edges))])
        tail = np.flip(np.cumsum(np.flip(measure * widths, axis), axis), axis)
        measure = np.concatenate([tail, np.zeros_like(np.take(tail, [0], axis))], axis)
    if len(edges) == 1:
        line: Floats = np.interp(at[:, 0], edges[0], measure)
        return line
    cell = [
        np.clip(np.searchsorted(e, at[:, a], side="right") - 1, 0, len(e) - 2) for a, e in enumerate(edges)
    ]
    share = [(at[:, a] - e[cell[a]]) / (e[cell[a] + 1] - e[cell[a]]) for a, e in enumerate(edges)]
    total = np.zeros(len(at))
    for first in (0, 1):
        for second in (0, 1):
            weight = (share[0] if first else 1 - share[0]) * (share[1] if second else 1 - share[1])
            total += weight * measure[cell[0] + first, cell[1] + second]
    return total


def _expected_excess(excess: Floats, deviation: Floats) -> Floats:
    """Expectation of max(0, x) for x normal with this mean and standard deviation."""
    z = excess / deviation
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    expected: Floats = excess * ndtr(z) + deviation * density
    return expected
