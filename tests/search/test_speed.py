"""How long trials are expected to take on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.prediction import predict
from bsr_explorer.prefix.prefix import OFTEN
from bsr_explorer.search import speed as module
from bsr_explorer.search.speed import OVERHEAD_SECONDS, Clock, Speed, calibrate, expected_seconds

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config(model="toy", image_size=96, batch_size=32, method="full")
CONFIGS = [CONFIG.with_method(method) for method in ("linear", "last(k=1)", "full")]
SLOW = Speed(1e6, 1e6)
FULL = Fidelity(96, 320, 64, 2)


# --- what a trial takes ---------------------------------------------------------------------------------


def test_a_trial_takes_its_steps_and_its_validation() -> None:
    costs = predict(CONFIG)
    speed = Speed(1e9, 2e9)
    expected = OVERHEAD_SECONDS + 2 * 10 * costs.train_flops / 1e9 + 2 * costs.forward_flops / 2e9
    assert expected_seconds(CONFIG, FULL, speed) == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "images"), [(4, 320), (2, 640)])
def test_time_scales_with_the_images_trained(epochs: int, images: int) -> None:
    speed, unseen = Speed(1e8, 1e99), replace(FULL, val_size=1)
    once = expected_seconds(CONFIG, unseen, speed) - OVERHEAD_SECONDS
    more = replace(unseen, epochs=epochs, train_size=images)
    twice = expected_seconds(CONFIG, more, speed) - OVERHEAD_SECONDS
    assert twice == pytest.approx(2 * once)


def test_time_scales_with_the_machine() -> None:
    slow, fast = (expected_seconds(CONFIG, FULL, Speed(x, x)) - OVERHEAD_SECONDS for x in (1e8, 3e8))
    assert slow == pytest.approx(3 * fast)


def test_a_proxy_and_a_cheaper_method_take_less() -> None:
    assert expected_seconds(CONFIG, replace(FULL, image_size=32), SLOW) < expected_seconds(CONFIG, FULL, SLOW)
    assert expected_seconds(CONFIGS[0], FULL, SLOW) < expected_seconds(CONFIG, FULL, SLOW)


def test_the_clock_learns_how_far_off_it_was() -> None:
    clock = Clock([FULL], Speed(1e9, 1e9))
    before = [clock.expected(config) for config in CONFIGS]
    clock.learn(CONFIGS[0], 3 * before[0])
    assert [clock.expected(config) for config in CONFIGS] == pytest.approx(
        [3 * seconds for seconds in before]
    )
    clock.learn(CONFIGS[2], before[2])
    factor = (3 * before[0] + before[2]) / (before[0] + before[2])
    assert clock.expected(CONFIGS[1]) == pytest.approx(factor * before[1])


def test_the_clock_expects_a_training_at_a_proxy_to_take_less() -> None:
    proxy = replace(FULL, image_size=32)
    clock = Clock([FULL, proxy], Speed(1e9, 1e9))
    assert (
        clock.expected(CONFIG, 1) == expected_seconds(CONFIG, proxy, Speed(1e9, 1e9)) < clock.expected(CONFIG)
    )
    before = clock.expected(CONFIG)
    clock.learn(CONFIG, 2 * clock.expected(CONFIG, 1), 1)
    assert clock.expected(CONFIG) == pytest.approx(2 * before)


def test_the_clock_predicts_a_configuration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([FULL], Speed(1e9, 1e9))
    before = clock.expected(CONFIG)
    monkeypatch.setattr("bsr_explorer.search.speed.predict", lambda config: pytest.fail("once is enough"))
    clock.learn(CONFIG, 2 * before)
    assert clock.expected(replace(CONFIG)) == pytest.approx(2 * before)


def test_frozen_blocks_run_once_where_they_are_cached() -> None:
    config, speed = CONFIG.with_method("last(k=1)"), Speed(1e6, 1e6)
    images = 32 * OFTEN * 5
    fidelity = Fidelity(96, images, 1, 8)
    costs = predict(config)
    below = sum(row.flops for row in costs.rows if row.kind == "forward" and row.block in (0, 1, 2))
    saved = expected_seconds(config, fidelity, speed, cached=False) - expected_seconds(
        config, fidelity, speed
    )
    steps = images / 32
    assert saved == pytest.approx(steps * below * (8 * (1 - 1 / OFTEN) - 1) / 1e6)


def test_where_nothing_is_frozen_a_cache_saves_nothing() -> None:
    assert expected_seconds(CONFIG, FULL, SLOW, cached=False) == expected_seconds(CONFIG, FULL, SLOW)


def test_of_few_batches_one_an_epoch_runs_cached_blocks_too() -> None:
    linear = CONFIG.with_method("linear")
    few, more = Fidelity(96, 32, 1, 20), Fidelity(96, 32 * OFTEN, 1, 20)
    saved = [
        1 - expected_seconds(linear, f, SLOW) / expected_seconds(linear, f, SLOW, cached=False)
        for f in (few, more)
    ]
    assert saved[0] < 0.05 < 0.5 < saved[1]


# --- measured ------------------------------------------------------------------------------------------


def test_the_machine_is_timed() -> None:
    speed = calibrate(replace(CONFIG, image_size=32))
    assert 1e6 < speed.train < 1e16
    assert 1e6 < speed.forward < 1e16


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "amp_fp16"},
        {"precision": "bf16", "optimizer": "adamw_8bit"},
        {"micro_batches": 4},
        {"method": "checkpoint"},
        {"optimizer": "sgd_momentum"},
    ],
    ids=str,
)
def test_every_way_to_run_is_timed(changes: dict[str, Any]) -> None:
    speed = calibrate(replace(CONFIG, image_size=32, **changes))
    assert min(speed.train, speed.forward) > 1e6


def test_speed_is_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda step, device: 0.5)
    costs = predict(replace(CONFIG, batch_size=8))
    assert calibrate(CONFIG) == Speed(2 * costs.train_flops, 2 * costs.forward_flops)


def test_the_machine_is_timed_with_the_threads_of_a_trial() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def noting(config: Config) -> Speed:
        seen.append(torch.get_num_threads())
        raise RuntimeError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(module, "_calibrate", noting)
        calibrate(CONFIG, before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
