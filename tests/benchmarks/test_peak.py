"""Predicted peaks beside measured ones, and beside the other estimates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import peak
from bsr_explorer import Config

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


@pytest.fixture(scope="module")
def compared() -> list[dict[str, object]]:
    """Two small configurations: one that every predictor answers, and one that has frozen parameters."""
    small = Config(model="deit_t", image_size=32, batch_size=2)
    return [peak.compare(small.with_method(method)) for method in ("full", "bsr")]


def test_ours_is_right_to_the_byte(compared: list[dict[str, object]]) -> None:
    assert peak.errors(compared, peak.OURS) == [0, 0]


def test_the_tracker_answers_only_where_nothing_is_frozen(compared: list[dict[str, object]]) -> None:
    assert len(peak.errors(compared, "torch MemTracker")) == 1


def test_every_predictor_has_its_row(compared: list[dict[str, object]]) -> None:
    rows = {row["predictor"]: row for row in peak.rows(compared)}
    assert list(rows) == list(peak.PREDICTORS)
    assert rows[peak.OURS]["exact"] == 2
    assert rows["4 x parameters"]["worst"] > 0.01


def test_the_figure_is_drawn(compared: list[dict[str, object]], tmp_path: Path) -> None:
    assert [path.stat().st_size > 1000 for path in peak.draw_figure(compared, tmp_path)] == [True] * 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_drawn_is_valid_and_various(device: str) -> None:
    rng = random.Random(0)
    drawn = [peak.draw(rng, device) for _ in range(60)]
    assert {config.device for config in drawn} == {device}
    assert len({config.precision for config in drawn}) >= 3
    assert len({str(config.method) for config in drawn}) >= 5
