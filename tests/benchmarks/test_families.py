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


def test_a_census_says_what_has_no_rule(capsys: pytest.CaptureFixture[str]) -> None:
    families.census(3, time.monotonic() + 300, as_json=False)
    assert "models of timm are predicted whole" in capsys.readouterr().out
