"""``bsr-explore reproduce``: side by side, and 1 where they differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli.train import Run
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.units import format_mb

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]


def test_a_trial_comes_to_the_same(cli: Cli, study_folder: Path) -> None:
    before = {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()}
    record = read_records(study_folder)[1]
    done = cli("reproduce", study_folder, 1)
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert record.accuracy is not None
    accuracy = f"{100 * record.accuracy:.4f}%"
    assert f"accuracy after epoch 1 {accuracy} {accuracy}" in lines
    assert record.measured is not None
    peak = f"{record.measured['peak_bytes']:,} bytes = {format_mb(record.measured['peak_bytes'])} MB"
    assert f"peak, measured {peak} {peak}" in lines
    assert "it came to the same: identical, where no difference was allowed (the same versions" in done.out
    assert {path: path.read_bytes() for path in study_folder.rglob("*") if path.is_file()} == before


def test_another_accuracy_is_exit_code_1(cli: Cli, study_folder: Path) -> None:
    record = read_records(study_folder)[1]
    write_record(study_folder, 1, replace(record, history=[0.9], accuracy=0.9))
    done = cli("reproduce", study_folder, 1, "--json")
    assert done.code == 1
    assert done.err.strip().startswith("error: trial 1 did not come to the same: ")
    assert done.err.strip().count("\n") == 0
    said = json.loads(done.out)
    assert (said["agrees"], said["tolerance"], said["changed"]) == (False, 0.0, [])
    assert said["difference"] == pytest.approx(abs(0.9 - (record.accuracy or 0)))
    assert said["recorded"]["history"] == [0.9]
    assert said["again"]["history"] == record.history
    assert cli("reproduce", study_folder, 1, "--tolerance", "1").code == 0


def test_a_stopped_trial_is_stopped_again(cli: Cli, study_folder: Path) -> None:
    record = read_records(study_folder)[1]
    made = Experiment.of_record("", record, "random")
    longer = replace(made.fidelity, epochs=3)
    stopped = fine_tune(made.config, "digits", longer, "random", made.seed, rungs={1: 1.1})
    write_record(study_folder, 1, replace(stopped, study=record.study))
    done = cli("reproduce", study_folder, 1)
    assert done.code == 0, done.err
    assert ["status", "stopped", "stopped"] in [line.split() for line in done.out.splitlines()]
    assert "accuracy after epoch 1" in done.out
    assert "after epoch 3" not in done.out


def test_ctrl_c_is_heeded(cli: Cli, study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Run, done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "step", stop)
    done = cli("reproduce", study_folder, 1)
    assert (done.code, done.out) == (130, "")
    assert "stopped: what was finished is kept" in done.err
