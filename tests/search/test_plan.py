"""The plan: how long trials are expected to take, and how thorough they can be in the time there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer import damage
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.models.weights import create_model
from bsr_explorer.prediction import predict
from bsr_explorer.search import plan as module
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.plan import (
    LEAST_IMAGES,
    MOST_IMAGES,
    MOST_VALIDATION,
    OVERHEAD_SECONDS,
    Clock,
    Speed,
    calibrate,
    expected_seconds,
    plan,
    settle,
)
from bsr_explorer.search.space import Space, proxy_sizes
from bsr_explorer.store.study import Study

pytestmark = pytest.mark.usefixtures("toy")

MakeStudy = Callable[..., Study]

CONFIG = Config(model="toy", image_size=96, batch_size=32, method="full")
CONFIGS = [CONFIG.with_method(method) for method in ("linear", "last(k=1)", "full")]
FAST, SLOW = Speed(1e15, 1e15), Speed(1e6, 1e6)
FULL = Fidelity(96, 320, 64, 2)
ALL = (54_000, 6_000)


def total(fidelity: Fidelity, trials: int, speed: Speed) -> float:
    return trials * sum(expected_seconds(config, fidelity, speed) for config in CONFIGS) / len(CONFIGS)


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
    clock = Clock(FULL, Speed(1e9, 1e9))
    before = [clock.expected(config) for config in CONFIGS]
    clock.learn(CONFIGS[0], 3 * before[0])
    assert [clock.expected(config) for config in CONFIGS] == pytest.approx(
        [3 * seconds for seconds in before]
    )
    clock.learn(CONFIGS[2], before[2])
    factor = (3 * before[0] + before[2]) / (before[0] + before[2])
    assert clock.expected(CONFIGS[1]) == pytest.approx(factor * before[1])


def test_the_clock_predicts_a_configuration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(FULL, Speed(1e9, 1e9))
    before = clock.expected(CONFIG)
    monkeypatch.setattr("bsr_explorer.search.plan.predict", lambda config: pytest.fail("once is enough"))
    clock.learn(CONFIG, 2 * before)
    assert clock.expected(replace(CONFIG)) == pytest.approx(2 * before)


# --- the plan -------------------------------------------------------------------------------------------


def test_proxy_sizes_are_whole_patches() -> None:
    assert proxy_sizes(CONFIG) == [96, 48, 32]  # a quarter is 24, 1.5 patches
    assert proxy_sizes(replace(CONFIG, image_size=16)) == [16]
    assert proxy_sizes(Config(model="deit_s", image_size=224)) == [224, 112, 64]
    assert proxy_sizes(Config(model="dinov2_s", image_size=518)) == [518, 252, 126]


def test_a_fast_machine_trains_at_the_target_size() -> None:
    fidelity = plan(CONFIGS, 12, Fidelity(), 480, FAST, ALL)
    assert fidelity == Fidelity(96, MOST_IMAGES, MOST_VALIDATION, 3, "short")


def test_a_slow_machine_trains_at_a_proxy_size() -> None:
    fidelity = plan(CONFIGS, 12, Fidelity(), 480, SLOW, ALL)
    assert fidelity == Fidelity(32, CONFIG.batch_size, MOST_VALIDATION, 3, "short")


def test_in_between_the_size_falls_as_the_machine_slows() -> None:
    speeds = [10 ** (12 - step / 10) for step in range(50)]
    plans = [plan(CONFIGS, 12, Fidelity(), 480, Speed(speed, speed), ALL) for speed in speeds]
    work = [(p.image_size or 0, p.train_size or 0) for p in plans]
    sizes = [size for size, _ in work]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {96, 48, 32}
    assert all(images >= LEAST_IMAGES for size, images in work if size > 32)


@settings(max_examples=50)
@given(
    speed=st.floats(5, 16).map(lambda e: 10**e),
    ratio=st.floats(0.5, 4),
    trials=st.integers(1, 60),
    seconds=st.floats(1, 1e5),
    images=st.integers(33, 60_000),  # more than a batch
    validation=st.integers(10, 10_000),
    given_epochs=st.none() | st.integers(1, 20),
)
def test_the_trials_end_in_time_or_are_the_least_there_is(
    speed: float,
    ratio: float,
    trials: int,
    seconds: float,
    images: int,
    validation: int,
    given_epochs: int | None,
) -> None:
    machine = Speed(speed, speed * ratio)
    fidelity = plan(CONFIGS, trials, Fidelity(epochs=given_epochs), seconds, machine, (images, validation))
    assert fidelity.train_size is not None
    assert 1 <= fidelity.train_size <= min(images, MOST_IMAGES)
    assert fidelity.train_size % CONFIG.batch_size == 0 or fidelity.train_size in (images, MOST_IMAGES)
    assert fidelity.val_size == min(validation, MOST_VALIDATION)
    assert fidelity.epochs == (given_epochs or 3)
    least = fidelity.image_size == 32 and fidelity.train_size == min(CONFIG.batch_size, images)
    assert least or total(fidelity, trials, machine) <= seconds


@given(
    fidelity=st.builds(
        Fidelity,
        image_size=st.sampled_from([None, 32, 64, 96]),
        train_size=st.none() | st.integers(1, 1000),
        val_size=st.none() | st.integers(1, 1000),
        epochs=st.none() | st.integers(1, 9),
    ),
    seconds=st.none() | st.floats(1, 1e4),
    exponent=st.floats(6, 14),
)
def test_what_is_given_stays(fidelity: Fidelity, seconds: float | None, exponent: float) -> None:
    speed = Speed(10**exponent, 10**exponent)
    planned = plan(CONFIGS, 12, fidelity, seconds, speed, ALL)
    for key in ("image_size", "train_size", "val_size", "epochs"):
        assert getattr(fidelity, key) in (None, getattr(planned, key))
    assert planned.recipe == fidelity.recipe
    assert planned.image_size is not None


def test_given_images_that_take_too_long_make_the_size_smaller() -> None:
    asked = Fidelity(train_size=2000)
    sizes = [plan(CONFIGS, 12, asked, 480, Speed(x, x), ALL).image_size for x in (1e15, 1e6)]
    assert sizes == [96, 32]


def test_without_a_limit_everything_is_trained_on() -> None:
    assert plan(CONFIGS, 12, Fidelity(), None, SLOW, ALL) == Fidelity(image_size=96)
    assert plan(CONFIGS, 12, Fidelity(train_size=50), None, SLOW, ALL) == Fidelity(96, 50)


@pytest.mark.parametrize(("batch", "available"), [(LEAST_IMAGES, ALL), (32, (30, 10))])
def test_a_single_batch_that_takes_too_long_makes_the_size_smaller(
    batch: int, available: tuple[int, int]
) -> None:
    config = replace(CONFIG, batch_size=batch)
    fidelity = plan([config], 12, Fidelity(), 480, SLOW, available)
    assert fidelity.image_size == 32


def test_planned_images_can_be_loaded() -> None:
    config = replace(CONFIG, batch_size=4, num_classes=10)
    fidelity = plan([config], 12, Fidelity(), 10, SLOW, ALL)
    assert (fidelity.train_size or 0) >= config.num_classes


# --- settled on this machine ----------------------------------------------------------------------------


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


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "calibrate", lambda config, threads: FAST)


@pytest.mark.usefixtures("fast")
def test_everything_open_is_settled(make_study: MakeStudy) -> None:
    study = make_study(fidelity=Fidelity(), time_limit=None)
    settled, speed = settle(study, Space(study), Job(), 100.0)
    assert speed == FAST
    assert settled.time_limit == 100.0
    assert settled.fidelity == Fidelity(48, 1078, 359, 3, "short")  # all images of digits
    assert replace(settled, time_limit=None, fidelity=Fidelity()) == study


@pytest.mark.usefixtures("fast")
def test_what_is_settled_stays(make_study: MakeStudy) -> None:
    study = make_study(time_limit=50.0)
    assert settle(study, Space(study), Job(), 100.0) == (study, FAST)


def test_fresh_seeds_and_trials_at_once_are_planned_for(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy
) -> None:
    planned: list[tuple[int, float]] = []
    threads: list[int | None] = []

    def calibrated(config: Config, given: int | None) -> Speed:
        threads.append(given)
        return SLOW

    def noting(configs: Any, trials: int, given: Fidelity, seconds: float, *rest: Any) -> Fidelity:
        planned.append((trials, seconds))
        return plan(configs, trials, given, seconds, *rest)

    class Eight(Here):
        threads = 3

        def parallel(self, device: str) -> int:
            return 8

    monkeypatch.setattr(module, "calibrate", calibrated)
    monkeypatch.setattr(module, "plan", noting)
    study = make_study(time_limit=50.0, replicas=3, trials=12)
    settle(study, Space(study), Job(), 100.0)
    settle(study, Space(study), Job(), 100.0, Eight())
    assert planned == [(12 + 3 * 3, 50.0), (12 + 3 * 3, 400.0)]
    assert threads == [None, 3]


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


@pytest.mark.usefixtures("fast")
def test_auto_weights_become_what_was_found(monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy) -> None:
    asked: list[str] = []

    def found(name: str, *, weights: str, **options: Any) -> Any:
        asked.append(weights)
        model, used = create_model(name, weights="random", **options)
        return model, replace(used, source="offline")

    monkeypatch.setattr(damage, "create_model", found)
    study = make_study(weights="auto")
    assert settle(study, Space(study), Job(), 100.0)[0].weights == "offline"
    assert asked == ["auto"]


@pytest.mark.usefixtures("fast")
def test_data_of_other_classes_is_refused_before_training(make_study: MakeStudy) -> None:
    study = make_study(config={"num_classes": 7})
    with pytest.raises(UserError, match="--num-classes"):
        settle(study, Space(study), Job(), 100.0)
