"""What a training at a proxy costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.prediction import predict
from bsr_explorer.search.proxies import closing, efforts, proxy_sizes
from bsr_explorer.store.study import Study


def test_it_is_its_share_of_the_flops(make_study: Callable[..., Study]) -> None:
    own = Fidelity(image_size=48, train_size=40, val_size=20, epochs=1)
    study = make_study(fidelity=own, sampler="exact", proxies=("48x20", "32x20"))
    full = study.config.with_method("full")
    smaller = predict(Fidelity(image_size=32).at(full)).train_flops / predict(full).train_flops
    assert smaller < 0.7
    assert efforts(study) == pytest.approx([40, 20, 20 * smaller])


def test_the_last_third_of_trials_or_of_time_is_for_the_target(make_study: Callable[..., Study]) -> None:
    study = make_study(trials=7, time_limit=100.0)
    assert [closing(study, trained, 0.0, 1.0) for trained in range(7)] == [False] * 4 + [True] * 3
    assert not closing(study, 0, 69.0, 10.0)
    assert closing(study, 0, 70.0, 10.0)
    unlimited = make_study(trials=7, time_limit=None)
    assert not closing(unlimited, 0, 1e6, 10.0)


def test_proxy_sizes_are_whole_patches() -> None:
    config = Config(model="deit_t", image_size=96, batch_size=4)
    assert proxy_sizes(config) == [96, 48, 32]  # a quarter is 24, 1.5 patches
    assert proxy_sizes(replace(config, image_size=16)) == [16]
    assert proxy_sizes(Config(model="deit_s", image_size=224)) == [224, 112, 64]
    assert proxy_sizes(Config(model="dinov2_s", image_size=518)) == [518, 252, 126]
