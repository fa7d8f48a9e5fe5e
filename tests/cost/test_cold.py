"""The first steps on a GPU, beside what an H200's allocator did in 38 of them (``recorded/README.md``)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.cost.cold import from_the_start, steady
from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.step import Recorded
from bsr_explorer.devices import cuda
from bsr_explorer.operations.kinds import KINDS
from bsr_explorer.prediction import predict, tape_of
from tests.cost.recorded.then import DROP_THEN

MiB = 2**20
RECORDED = Path(__file__).parent / "recorded" / "h200.jsonl.gz"


def recorded() -> list[dict[str, Any]]:
    with gzip.open(RECORDED, "rt") as lines:
        return [json.loads(line) for line in lines]


STEPS = recorded()
NAMES = [f"{n}: {s['config']['method']} {s['config']['precision']}" for n, s in enumerate(STEPS)]
every_step = pytest.mark.parametrize("step", STEPS, ids=NAMES)


@pytest.fixture(autouse=True)
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch and the token drop of then."""
    monkeypatch.setattr(cuda, "_installed", lambda: (2, 11))
    monkeypatch.setitem(KINDS, "drop_tokens", DROP_THEN)


def config_of(step: dict[str, Any]) -> Config:
    """(Gradients passed to no scores then.)"""
    values = dict(step["config"])
    values["method"] = values["method"].replace("fuse=True)", "fuse=True, faithful=False)")
    return Config.from_dict({**values, "gpu": "h200"})


def found(step: dict[str, Any]) -> tuple[int, int, int]:
    """Predicted: allocated before a steady step, its peak, reserved."""
    config = config_of(step)
    said = steady(Recorded.of(tape_of(config)), config.setup)
    return said.standing, said.peak, said.reserved


@every_step
def test_the_peak_is_the_recorded_one_within_a_percent(step: dict[str, Any]) -> None:
    standing, peak, _ = found(step)
    assert peak == pytest.approx(step["peak"], rel=0.0035)
    assert standing == pytest.approx(step["before_step"], rel=0.01)


@every_step
def test_reserved_is_the_recorded_within_a_few_percent(step: dict[str, Any]) -> None:
    assert found(step)[2] == pytest.approx(step["reserved"], rel=0.035)


def test_most_of_them_are_true_to_the_byte() -> None:
    off = [
        (abs(peak - s["peak"]) / s["peak"], abs(reserved - s["reserved"]) / s["reserved"])
        for s in STEPS
        for _, peak, reserved in [found(s)]
    ]
    peaks, all_reserved = zip(*off, strict=True)
    assert sum(each == 0 for each in peaks) >= 23
    assert sum(each == 0 for each in all_reserved) >= 31
    assert median(peaks) == median(all_reserved) == 0
    assert sum(each > 0.03 for each in all_reserved) <= 1


def changes(step: dict[str, Any]) -> list[int]:
    """What a steady step is predicted to take and free, in units of 512 bytes, without what is at most 1 MiB."""
    config = config_of(step)
    memory = Memory(512)
    of_steps = from_the_start(Recorded.of(tape_of(config)), config.setup, memory)
    *_, events = (next(of_steps) for _ in range(3))
    return [event.change // 512 for event in events if abs(event.change) > MiB]


def in_order(changes: Sequence[int]) -> list[list[int]]:
    """Runs of takes, as they are, and of frees, sorted: the allocator does not see in which order memory is freed
    between two takes."""
    return [list(run) if takes else sorted(run) for takes, run in groupby(changes, key=lambda c: c > 0)]


DIFFERS = {
    "offload": "offloading copied views then",
    "bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)+mesa(bits=8, groups='heads', ema=0.9)": (
        "frozen packed attention held its softmax a moment longer then"
    ),
}
"""Methods whose code is another one since."""


@every_step
def test_event_by_event(step: dict[str, Any]) -> None:
    method, config = step["config"]["method"], step["config"]
    if method in DIFFERS:
        pytest.skip(DIFFERS[method])
    if method.startswith("bsr") and config["precision"] == "amp_bf16" and config["attention"] == "math":
        pytest.skip("the class token's attention let go of its products earlier then")
    mine, theirs = changes(step), step["events"]
    if (
        method == "full" and config["model"] == "deit_t"
    ):  # cuDNN adds the patch weight's gradient up in two parts
        mine = [
            each + (786_432 // 512) * (1 if each > 0 else -1) if abs(each) == 16_433 else each
            for each in mine
        ]
    assert in_order(mine) == in_order(theirs)


def test_a_prediction_is_what_the_allocator_comes_to() -> None:
    config = config_of(STEPS[0])
    said = predict(config)
    standing, peak, reserved = found(STEPS[0])
    assert (said.peak_bytes, said.reserved_bytes) == (peak, reserved) == (2_288_528_384, 2_495_610_880)
    assert said.peak is not None
    assert sum(said.peak.alive.values()) == peak > standing
    assert (said.peak.phase, said.peak.block, said.peak.operation) == ("backward", 11, "blocks.11.mlp.fc2")


def test_gradients_that_stay_are_taken_once() -> None:
    config = Config("deit_t", 64, batch_size=2, method="last(k=1)", device="cuda", set_to_none=False)
    memory = Memory(512)
    of_steps = from_the_start(Recorded.of(tape_of(config)), config.setup, memory)
    _, first, second, *_ = of_steps
    for events, times in ((first, 1), (second, 0)):
        assert sum(event.name == "gradient of head.weight" for event in events) == times
    assert predict(config).peak_bytes >= predict(replace(config, set_to_none=True)).peak_bytes
