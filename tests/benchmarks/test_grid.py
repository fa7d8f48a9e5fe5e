"""The grid benchmark runs and reports what it says."""

from __future__ import annotations

import json
import os

import pytest
import torch

from benchmarks import grid

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


def test_it_prints_configurations_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["grid.py", "--model", "deit_t", "--repeats", "1", "--json"])
    monkeypatch.setattr(grid, "KEEP", (1.0, 0.5))
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    threads = torch.get_num_threads()
    grid.main()
    torch.set_num_threads(threads)
    answer = json.loads(capsys.readouterr().out)
    assert answer["configurations"] == 4096 * (1 + 7 * 2)
    assert answer["configurations_a_second"] > 0
    assert answer["one_tracing_measurement_seconds"] > 0
