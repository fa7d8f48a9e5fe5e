"""What a training at a proxy costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.config import Fidelity
from bsr_explorer.prediction import predict
from bsr_explorer.search.proxies import efforts
from bsr_explorer.store.study import Study


def test_it_is_its_share_of_the_flops(make_study: Callable[..., Study]) -> None:
    own = Fidelity(image_size=48, train_size=40, val_size=20, epochs=1)
    study = make_study(fidelity=own, sampler="exact", proxies=("48x20", "32x20"))
    full = study.config.with_method("full")
    smaller = predict(Fidelity(image_size=32).at(full)).train_flops / predict(full).train_flops
    assert smaller < 0.7
    assert efforts(study)[:, 0] == pytest.approx([40, 20, 20 * smaller])
    assert (efforts(study)[:, 1] == 0).all()
