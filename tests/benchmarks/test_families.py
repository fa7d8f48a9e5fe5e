"""Models of many families against real steps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import families

pytestmark = pytest.mark.thorough  # real steps


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto", "levit_128s"])
def test_a_family_is_predicted(model: str, tmp_path: Path) -> None:
    rows = list(families.compared([model], ["full", "last(k=1)"], time.monotonic() + 600, tmp_path))
    assert len(rows) == 2 and not any(row["off"] for row in rows)
    again = list(families.compared([model], ["full", "last(k=1)"], time.monotonic() - 1, tmp_path))
    assert [row["model"] for row in again] == [model, model]  # read, not run


def test_a_census_says_what_has_no_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["resnet18", "levit_128s", "sequencer2d_s"]  # of the last, nobody counts the LSTM's FLOPs
    monkeypatch.setattr(families, "in_turn", lambda count: small[:count])
    families.census(3, time.monotonic() + 300, as_json=False)
    said = capsys.readouterr().out
    assert "2 of 3 models of timm are predicted whole" in said
    assert "lstm" in said


def test_the_census_takes_one_of_each_module_in_turn() -> None:
    found = families.in_turn(20)
    assert len(set(found)) == 20
    assert not any("giant" in name for name in found)


def test_predictions_are_timed_after_the_trace() -> None:
    (row,) = families.timed(["resnet18"], 3, time.monotonic() + 600)
    assert row["blocks"] == 8 and row["configurations"] == 3 and float(row["a second"]) > 0
