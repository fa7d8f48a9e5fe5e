"""Image sizes of proxies, and what a training at one costs, compared with one at the study's own fidelity."""

from __future__ import annotations

import numpy as np

from bsr_explorer.config import Config
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.search.features import Floats
from bsr_explorer.store.study import Study


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
