"""The study of five tasks: its data, its table, and a small run that goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.rows import read_rows
from bsr_explorer.config import Config
from bsr_explorer.data.places import classes_of
from bsr_explorer.prediction import predict
from bsr_explorer.store.experiment import Experiment
from studies.tasks import train

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "reports" / "examples" / "tasks"


def test_there_are_five_tasks() -> None:
    assert classes_of(train.DATA) == (10, 10, 4, 7, 19)


def test_the_small_one_says_what_its_data_has() -> None:
    small = Experiment.from_toml(ROOT / "studies" / "tasks" / "two.toml")
    assert small.config.tasks == classes_of(small.data) == (10, 4)


@pytest.mark.parametrize(("table", "seeds"), [("table.csv", 3), ("longer.csv", 1)])
def test_what_is_kept_is_what_is_predicted(table: str, seeds: int) -> None:
    """And each mean is that of its tasks."""
    rows = read_rows(KEPT / table)
    config = Config(train.MODEL, 64, batch_size=32, method="full").with_classes(classes_of(train.DATA))
    for row in rows:
        predicted = predict(config.with_method(row["method"]))
        assert row["saved MB"] == f"{predicted.saved_bytes / 1e6:.2f}"
        assert row["peak MB"] == f"{predicted.peak_bytes / 1e6:.2f}"
        assert row["GFLOPs a step"] == f"{predicted.train_flops / 1e9:.1f}"
        assert (row["saved off"], row["peak off"]) == ("0", "0")
        tasks = [float(value) for key, value in row.items() if key.endswith("(%)") and key != "mean (%)"]
        assert len(tasks) == 5
        assert float(row["mean (%)"]) == pytest.approx(sum(tasks) / 5, abs=0.1)
    methods = [row["method"] for row in rows]
    assert {methods.count(method) for method in methods} == {seeds}
    assert {"full", "last(k=3)"} < {*methods}


@pytest.mark.thorough
def test_a_small_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: str) -> None:
    words = (
        f"--seeds 1 --model {toy} --weights random --image-size 32 --train-size 64 --val-size 40 --epochs 1"
    )
    data = ["--data", "tasks(digits, turned(digits))", "--out", str(tmp_path), "--methods"]
    for methods in (["linear"], ["linear", "full"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *words.split(), *data, *methods])
        train.main()
    rows = read_rows(tmp_path / "table.csv")
    assert [row["method"] for row in rows] == ["linear", "full"]
    assert all(0 <= float(row["turned(digits) (%)"]) <= 100 and row["peak off"] == "0" for row in rows)
