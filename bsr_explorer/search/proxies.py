"""What a training at a proxy costs, compared with one at the study's own fidelity."""

from __future__ import annotations

import numpy as np

from bsr_explorer.prediction import predict
from bsr_explorer.search.features import Floats
from bsr_explorer.store.study import Study


def efforts(study: Study) -> Floats:
    """See ``Choices.efforts``: by FLOPs, and not by seconds, so that proposals are the same on every machine.

    Args:
        study: with nothing left open in its fidelity.
    """
    full = study.config.with_method("full")
    own = predict(full).train_flops
    shares = [
        predict(fidelity.at(full)).train_flops / own * (fidelity.train_size or 1)
        for fidelity in study.fidelities
    ]
    return np.array([[share, 0.0] for share in shares])
