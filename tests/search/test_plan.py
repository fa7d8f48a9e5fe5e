"""The plan: how many trials, and how thorough ones, in the time there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer import damage
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.models.weights import create_model
from bsr_explorer.search import plan as module
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.plan import A_CLASS, LADDER, MORE, SPARE, Asked, Plan, _proxies, plan, settle
from bsr_explorer.search.proxies import proxy_sizes
from bsr_explorer.search.space import Space
from bsr_explorer.search.speed import Speed, expected_seconds
from bsr_explorer.store.space import SpaceSpec
from bsr_explorer.store.study import Study, runs

pytestmark = pytest.mark.usefixtures("toy")

MakeStudy = Callable[..., Study]

CONFIG = Config(model="toy", image_size=96, batch_size=32, method="full")
CONFIGS = [CONFIG.with_method(method) for method in ("linear", "last(k=1)", "full")]
FAST, SLOW = Speed(1e15, 1e15), Speed(1e6, 1e6)
ALL = (54_000, 6_000)
ASKED = Asked(CONFIGS, Fidelity(), None, None, drops=False, available=ALL)


def test_more_time_never_buys_less() -> None:
    for before, after in itertools.pairwise(LADDER):
        assert after != before
        for key in ("trials", "replicas", "images", "validation"):
            assert getattr(after, key) >= getattr(before, key)


def test_a_fast_machine_takes_the_last_step() -> None:
    made, most = plan(ASKED, 480, FAST), LADDER[-1]
    assert (made.trials, made.replicas) == (most.trials, most.replicas)
    assert made.fidelity == Fidelity(96, most.images, most.validation, 3)


@pytest.mark.parametrize("speed", [10 ** (e / 4) for e in range(20, 60)])
def test_what_drops_tokens_trains_at_the_target_or_at_half_of_it(speed: float) -> None:
    made = plan(replace(ASKED, drops=True), 480, Speed(speed, speed))
    assert made.fidelity.image_size in (96, 48)
    assert (made.fidelity.train_size or 0) >= A_CLASS * CONFIG.num_classes
    assert made.trials >= LADDER[0].trials


def test_where_nothing_drops_tokens_the_size_falls_as_the_machine_slows() -> None:
    plans = [plan(ASKED, 480, Speed(10**e, 10**e)) for e in (n / 10 for n in range(60, 140))]
    sizes = [made.fidelity.image_size or 0 for made in plans]
    assert sizes == sorted(sizes)
    assert set(sizes) == {96, 48, 32}


def test_a_size_that_is_given_stays() -> None:
    for drops in (True, False):
        asked = replace(ASKED, fidelity=Fidelity(image_size=48), drops=drops)
        assert {plan(asked, 480, speed).fidelity.image_size for speed in (FAST, SLOW)} == {48}


def test_there_are_images_of_each_class() -> None:
    config = replace(CONFIG, num_classes=100)
    made = plan(replace(ASKED, configs=[config]), 480, SLOW)
    assert made.fidelity.train_size == 2528  # whole batches of 32
    few = plan(replace(ASKED, configs=[config], available=(500, 100)), 480, SLOW)
    assert (few.fidelity.train_size, few.fidelity.val_size) == (500, 100)


def test_what_is_known_takes_half_of_the_trials_that_are_planned() -> None:
    assert [ASKED.first(trials) for trials in (1, 4, 8)] == [1, 2, 3]
    assert [replace(ASKED, trials=9).first(trials) for trials in (1, 2, 9)] == [1, 2, 3]


def test_its_seconds_are_those_of_what_is_tried_first_and_of_typical_others() -> None:
    fidelity = Fidelity(96, 320, 64, 2)
    each = [expected_seconds(config, fidelity, SLOW) for config in CONFIGS]
    made = plan(replace(ASKED, fidelity=fidelity, trials=8, replicas=2), 1.0, SLOW)
    assert made.seconds == pytest.approx(sum(each) + sum(each) / 3 * (8 + 2 * 2 - 3))


@settings(max_examples=50)
@given(
    speed=st.floats(5, 16).map(lambda e: 10**e),
    ratio=st.floats(0.5, 4),
    trials=st.none() | st.integers(1, 60),
    replicas=st.none() | st.integers(0, 5),
    seconds=st.floats(1, 1e5),
    images=st.integers(33, 60_000),
    validation=st.integers(10, 10_000),
    drops=st.booleans(),
)
def test_the_trials_end_in_time_or_are_the_least_there_is(
    speed: float,
    ratio: float,
    trials: int | None,
    replicas: int | None,
    seconds: float,
    images: int,
    validation: int,
    drops: bool,
) -> None:
    asked = replace(ASKED, trials=trials, replicas=replicas, available=(images, validation), drops=drops)
    made = plan(asked, seconds, Speed(speed, speed * ratio))
    fidelity = made.fidelity
    assert asked.least_images <= (fidelity.train_size or 0) <= images
    assert 1 <= (fidelity.val_size or 0) <= validation
    assert fidelity.epochs == 3
    assert made.trials == trials or (trials is None and made.trials in {step.trials for step in LADDER})
    assert made.replicas == replicas or replicas is None
    least = fidelity.image_size == asked.sizes[-1] and fidelity.train_size == asked.least_images
    assert least or made.seconds <= seconds * SPARE


@given(
    fidelity=st.builds(
        Fidelity,
        image_size=st.sampled_from([None, 32, 64, 96]),
        train_size=st.none() | st.integers(1, 1000),
        val_size=st.none() | st.integers(1, 1000),
        epochs=st.none() | st.integers(1, 9),
    ),
    seconds=st.floats(1, 1e4),
    exponent=st.floats(6, 14),
)
def test_what_is_given_stays(fidelity: Fidelity, seconds: float, exponent: float) -> None:
    planned = plan(replace(ASKED, fidelity=fidelity), seconds, Speed(10**exponent, 10**exponent)).fidelity
    for key in ("image_size", "train_size", "val_size", "epochs"):
        assert getattr(fidelity, key) in (None, getattr(planned, key))
    assert planned.recipe == fidelity.recipe


def test_the_error_is_that_of_the_validation_images() -> None:
    assert Plan(Fidelity(val_size=400), 8, 0, 0.0).error == pytest.approx(2.0)
    assert Plan(Fidelity(), 8, 0, 0.0).error == 0.0


# --- settled on this machine ----------------------------------------------------------------------------


OPEN = ("trials", "replicas")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "calibrate", lambda config, threads: FAST)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "calibrate", lambda config, threads: SLOW)


@pytest.mark.usefixtures("fast")
def test_everything_open_is_settled(make_study: MakeStudy) -> None:
    study = make_study(fidelity=Fidelity(), time_limit=None)
    settled = settle(study, Space(study), Job(), 1000.0, open=OPEN)
    most, made = LADDER[-1], settled.study
    assert settled.speed == FAST
    assert made.time_limit == 1000.0
    assert made.fidelity == Fidelity(made.config.image_size, 1078, 359, 3)  # all images of digits
    assert (made.trials, made.replicas) == (most.trials, most.replicas)
    assert settled.plan.fidelity == made.fidelity
    assert settled.more is None  # there is nothing more
    assert replace(made, time_limit=None, fidelity=Fidelity(), trials=12, replicas=3, first=None) == replace(
        study, trials=12, replicas=3
    )


@pytest.mark.usefixtures("slow")
def test_what_is_tried_first_leaves_trials_to_search_with(make_study: MakeStudy) -> None:
    study = make_study(fidelity=Fidelity(), time_limit=None)
    starts = ("linear", "last(k=1)", "last(k=2)", "last(k=3)", "bitfit")
    study = replace(study, space=replace(study.space, start=starts))
    made = settle(study, Space(study), Job(), 100.0, open=OPEN).study
    assert (made.trials, made.first, made.space) == (8, 4, study.space)
    assert settle(study, Space(study), Job(), 100.0, open=("replicas",)).study.first is None


@pytest.mark.usefixtures("slow")
def test_only_a_space_that_drops_nothing_is_trained_at_a_quarter(make_study: MakeStudy) -> None:
    sizes = []
    for families, start in (
        ("bsr", "linear"),
        ("last", "linear"),
        ("last", "bsr(blocks=(1,), keep={0: 0.5})"),
    ):
        study = make_study(fidelity=Fidelity(), space=SpaceSpec(families=(families,), start=(start,)))
        space = Space(study)
        sizes.append((space.drops, settle(study, space, Job(), 100.0).study.fidelity.image_size))
        half, quarter = proxy_sizes(study.config)[1:]
    assert sizes == [(True, half), (False, quarter), (True, half)]


@pytest.mark.usefixtures("fast")
def test_what_is_settled_stays(make_study: MakeStudy) -> None:
    study = make_study(time_limit=50.0)
    settled = settle(study, Space(study), Job(), 100.0)
    assert (settled.study, settled.more) == (study, None)


def test_fresh_seeds_and_trials_at_once_are_planned_for(
    monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy
) -> None:
    planned: list[tuple[int, float]] = []
    threads: list[int | None] = []

    def calibrated(config: Config, given: int | None) -> Speed:
        threads.append(given)
        return SLOW

    def noting(asked: Asked, seconds: float, speed: Speed) -> Plan:
        made = plan(asked, seconds, speed)
        planned.append((runs(made.trials, made.replicas), seconds))
        return made

    class Eight(Here):
        threads = 3

        def parallel(self, device: str) -> int:
            return 8

    monkeypatch.setattr(module, "calibrate", calibrated)
    monkeypatch.setattr(module, "plan", noting)
    study = make_study(time_limit=50.0, replicas=3, trials=12)
    settle(study, Space(study), Job(), 100.0)
    settle(study, Space(study), Job(), 100.0, Eight())
    assert planned == [(12 + 3 * 3, seconds) for seconds in (50.0, MORE * 50.0, 400.0, MORE * 400.0)]
    assert threads == [None, 3]


@pytest.mark.usefixtures("fast")
def test_auto_weights_become_what_was_found(monkeypatch: pytest.MonkeyPatch, make_study: MakeStudy) -> None:
    asked: list[str] = []

    def found(name: str, *, weights: str, **options: Any) -> Any:
        asked.append(weights)
        model, used = create_model(name, weights="random", **options)
        return model, replace(used, source="offline")

    monkeypatch.setattr(damage, "create_model", found)
    study = make_study(weights="auto")
    assert settle(study, Space(study), Job(), 100.0).study.weights == "offline"
    assert asked == ["auto"]


@pytest.mark.usefixtures("fast")
def test_data_of_other_classes_is_refused_before_training(make_study: MakeStudy) -> None:
    study = make_study(config={"num_classes": 7})
    with pytest.raises(UserError, match="--num-classes"):
        settle(study, Space(study), Job(), 100.0)


def test_proxies_are_half_the_image_size_and_a_quarter_that_leaves_patches_enough() -> None:
    def planned(size: int) -> tuple[str, ...]:
        config = Config("deit_s", size, batch_size=32)
        asked = Asked([config], Fidelity(), 4, 0, True, (400, 100), several=True)
        return _proxies(asked, Fidelity(image_size=size))

    assert planned(224) == ("112x256", "64x256")
    assert planned(112) == ("64x256",)  # a quarter has 4 patches
    assert planned(16) == ()
