"""The benchmark of trials at once runs the same trials each time."""

from __future__ import annotations

import json

import pytest

from benchmarks import jobs

SMALL = "--model deit_t --image-size 32 --batch-size 4 --train-size 20 --val-size 20 --epochs 1 --device cpu"


@pytest.mark.thorough
def test_the_same_trials_are_timed_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["jobs.py", *SMALL.split(), "--trials", "2", "--rounds", "1", "--jobs", "1,2", "--json"]
    )
    jobs.main()
    one, two = json.loads(capsys.readouterr().out)
    assert (one["jobs"], one["faster"], one["identical"]) == (1, 1.0, True)
    assert two["jobs"] == 2
    assert two["faster"] == one["seconds"][0] / two["seconds"][0]
    assert two["identical"]  # a thread each
    monkeypatch.setattr(jobs, "compare", lambda *_: [one, two])
    monkeypatch.setattr("sys.argv", ["jobs.py"])
    jobs.main()
    assert capsys.readouterr().out.splitlines()[3].startswith("| 1 | all | ")
