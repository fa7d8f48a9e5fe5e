"""Image sizes of proxies, what a training at one costs, and when a search comes back to the study's own fidelity."""

from __future__ import annotations

import math

import numpy as np

from bsr_explorer.config import Config
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.search.features import Floats
from bsr_explorer.store.study import Study

LAST = 1 / 3
"""Share of a study's trials that is for what is expected on the front and was trained at proxies alone."""


def closing(study: Study, trained: int, spent: float, each: float) -> bool:
    """Whether the trials that are left, or that the time still allows, are for what was trained at proxies alone.

    Args:
        trained: trials that the study has.
        spent: seconds of its time.
        each: seconds that a trial takes.
    """
    held = math.ceil(LAST * study.trials)
    short = study.time_limit is not None and study.time_limit - spent <= held * each
    return short or study.trials - trained <= held


def efforts(study: Study) -> Floats:
    """See ``Choices.efforts``: by FLOPs, and not by seconds, so that proposals are the same on every machine.

    Args:
        study: with nothing left open in its fidelity.
    """
    full = study.config.with_method("full")
    own = predict(full).train_flops
    return np.array(
        [
            predict(fidelity.at(full)).train_flops / own * (fidelity.train_size or 1)
            for fidelity in study.fidelities
        ]
    )


def proxy_sizes(config: Config) -> list[int]:
    """Image sizes to train at, largest first: the configuration's own, its half, its quarter."""
    patch = geometry_of(config).patch
    halves = [max(patch, round(config.image_size / part / patch) * patch) for part in (1, 2, 4)]
    return list(dict.fromkeys([config.image_size, *halves[1:]]))
