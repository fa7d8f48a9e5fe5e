"""Pareto fronts, and the area under a front of accuracy over memory (the hypervolume)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def front(*costs: ArrayLike) -> NDArray[np.intp]:
    """The candidates that no other beats, by the first cost, then by the second, and so on.

    One beats another if none of its costs is higher and one is lower. Of candidates with equal costs the first stands.

    Args:
        costs: (n,) each; what is to be high comes with its sign turned.

    Returns:
        (m,) indices, m ≤ n.
    """
    columns = [np.asarray(each) for each in costs]
    rest = np.lexsort(
        columns[::-1]
    )  # by the first cost, of equals by the next; in the given order where all are equal
    ahead = []
    while len(rest):
        best = rest[0]  # what would beat it would stand before it
        ahead.append(best)
        rest = rest[np.any([column[rest] < column[best] for column in columns], axis=0)]
    return np.array(ahead, dtype=np.intp)


def hypervolume(sizes: Sequence[int], accuracies: Sequence[float], reference: int) -> float:
    """Area under the step front of accuracy over memory, from no memory to the reference, over the reference.

    It is the mean accuracy that a budget drawn evenly up to the reference could buy: 0 where nothing fits,
    1 for an accuracy of 100% that costs nothing. It never falls when a point is added.

    Args:
        sizes: bytes of each point; those of the reference or more add nothing.
        accuracies: in [0, 1], of the same points in the same order.
        reference: bytes, such as the study's budget.
    """
    area, best, since = 0.0, 0.0, 0
    for place in front(sizes, np.negative(accuracies)):
        if sizes[place] < reference:
            area += best * (sizes[place] - since)
            best, since = accuracies[place], sizes[place]
    return (area + best * (reference - since)) / reference
