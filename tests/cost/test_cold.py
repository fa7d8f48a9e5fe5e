"""The first steps on a GPU, beside what an H200's allocator did in 38 of them (``recorded/README.md``)."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from bsr_explorer.config import Config
from bsr_explorer.cost.cold import from_the_start, steady
from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.step import Recorded
from bsr_explorer.devices import cuda
from bsr_explorer.operations.kinds import KINDS
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.trace import Trace, beside
from tests.cost.recorded import config_of, recorded
from tests.cost.recorded.then import DROP_THEN

STEPS = recorded()
NAMES = [f"{n}: {s.config['method']} {s.config['precision']}" for n, s in enumerate(STEPS)]
every_step = pytest.mark.parametrize("step", STEPS, ids=NAMES)


@pytest.fixture(autouse=True)
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch and the token drop of then."""
    monkeypatch.setattr(cuda, "_installed", lambda: (2, 11))
    monkeypatch.setitem(KINDS, "drop_tokens", DROP_THEN)


def found(step: Trace) -> tuple[int, int, int]:
    """Predicted: allocated before a steady step, its peak, reserved."""
    config = config_of(step)
    said = steady(Recorded.of(tape_of(config)), config.setup)
    return said.standing, said.peak, said.reserved


@every_step
def test_the_peak_is_the_recorded_one_within_a_percent(step: Trace) -> None:
    standing, peak, _ = found(step)
    assert peak == pytest.approx(step.peak, rel=0.0035)
    assert standing == pytest.approx(step.before_step, rel=0.01)


@every_step
def test_reserved_is_the_recorded_within_a_few_percent(step: Trace) -> None:
    assert found(step)[2] == pytest.approx(step.reserved, rel=0.035)


def test_most_of_them_are_true_to_the_byte() -> None:
    off = [
        (abs(peak - s.peak) / s.peak, abs(reserved - s.reserved) / s.reserved)
        for s in STEPS
        for _, peak, reserved in [found(s)]
    ]
    peaks, all_reserved = zip(*off, strict=True)
    assert sum(each == 0 for each in peaks) >= 23
    assert sum(each == 0 for each in all_reserved) >= 31
    assert median(peaks) == median(all_reserved) == 0
    assert sum(each > 0.03 for each in all_reserved) <= 1


DIFFERS = {
    "offload": "offloading copied views then",
    "bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)+mesa(bits=8, groups='heads', ema=0.9)": (
        "frozen packed attention held its softmax a moment longer then"
    ),
}
"""Methods whose code is another one since."""


@every_step
def test_event_by_event(step: Trace) -> None:
    method, config = step.config["method"], step.config
    if method in DIFFERS:
        pytest.skip(DIFFERS[method])
    if method.startswith("bsr") and config["precision"] == "amp_bf16" and config["attention"] == "math":
        pytest.skip("the class token's attention let go of its products earlier then")
    first = beside(step, config_of(step)).first
    if method == "full" and config["model"] == "deit_t":
        assert first is not None  # cuDNN adds the patch weight's gradient up in two parts, and not in one
        assert (first.recorded, first.predicted) == (9_200_128, 8_413_696)
        assert first.at == "backward, patch_embed.proj"
    else:
        assert first is None


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
