"""The benchmark of recorded steps says what it compared."""

from __future__ import annotations

import json

import pytest

from benchmarks import recorded
from bsr_explorer.devices import cuda
from bsr_explorer.operations.kinds import KINDS


def test_it_prints_how_far_predictions_are_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (cuda._installed, KINDS["drop_tokens"])
    monkeypatch.setattr("sys.argv", ["recorded.py", "--json"])
    recorded.main()
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["steps"]) == 38
    assert answer["peak"]["worst"] < 0.01
    assert answer["reserved"]["worst"] < 0.035
    assert answer["events"] >= 34
    assert (cuda._installed, KINDS["drop_tokens"]) == before
    monkeypatch.setattr("sys.argv", ["recorded.py"])
    recorded.main()
    shown = capsys.readouterr().out
    assert "reserved: 31 of 38 to the byte" in shown
