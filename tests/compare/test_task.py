"""The runs of a comparison: what is left to do, and how much that computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.compare import task
from bsr_explorer.compare.plan import run_flops
from bsr_explorer.compare.task import Task, tasks
from bsr_explorer.config import Config
from bsr_explorer.prediction import predict

MakeComparison = Callable[..., Any]


def test_tasks_weigh_what_they_compute(make_comparison: MakeComparison, toy: str, tmp_path: Path) -> None:
    first, *others = tasks(make_comparison("linear", seeds=1), tmp_path, 2)
    own = predict(Config(toy, 48, batch_size=4, method="linear"))
    trained = predict(Config(toy, 32, batch_size=4, method="linear"))
    assert first == Task("step times", 3 * own.train_flops)
    assert [each.flops for each in others] == [5 * trained.train_flops + 5 * trained.forward_flops]


def test_each_seed_costs_the_same_and_is_computed_once(
    make_comparison: MakeComparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(comparison: Any, entry: Any) -> int:
        asked.append(entry.method)
        return run_flops(comparison, entry)

    monkeypatch.setattr(task, "run_flops", counted)
    made = make_comparison("linear, full", seeds=3)
    found = tasks(made, tmp_path, 0)
    assert [(each.what, each.seed) for each in found] == [
        (f"{method}, seed {seed}", seed) for seed in range(3) for method in ("linear", "full")
    ]
    assert [each.flops for each in found] == [run_flops(made, entry) for entry in made.entries] * 3
    assert asked == ["linear", "full"]
