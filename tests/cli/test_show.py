"""``bsr-explore show``: everything of one trial, from its record."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.report.commands import commands_for
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.units import format_mb, in_mb

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]


def change(folder: Path, number: int, **changes: Any) -> Record:
    record = read_records(folder)[number]
    changed = replace(record, **{**changes, "study": {**record.study, **changes.get("study", {})}})
    write_record(folder, number, changed)
    return changed


def test_a_trial_is_shown_whole(cli: Cli, study_folder: Path) -> None:
    record = read_records(study_folder)[1]
    done = cli("show", study_folder, 1)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert record.accuracy is not None
    for words in (
        f"trial 1: {record.method} ",
        "status finished ",
        f"accuracy {100 * record.accuracy:.1f}%, top-1 on validation",
        f"seed {record.seed} ",
        f"made by bsr_explorer {record.provenance['bsr_explorer']}, torch {record.provenance['torch']}",
        f"key {record.key} ",
        "trained 1 epoch at 32 px, recipe short; 20 images in ",
        f"counting peak: {format_mb(record.study['counted_bytes'])} MB",
    ):
        assert words in text, words
    assert record.measured is not None
    lines = [line.split() for line in done.out.splitlines()]
    trained = next(line for line in lines if line[:5] == ["peak,", "at", "32", "px,", "as"])
    sizes = [format_mb(record.measured[key]) for key in ("predicted_peak_bytes", "peak_bytes")]
    assert [trained[6], trained[8]] == sizes
    blocks = [line for line in lines if line and line[0] in ("0", "1", "2", "3", "rest") and len(line) == 5]
    assert [line[0] for line in blocks] == list(record.predicted["by_block"])
    saved = [in_mb(entry.get("saved", 0)) for entry in record.predicted["by_block"].values()]
    assert [float(line[1]) for line in blocks] == pytest.approx(saved, abs=0.01)


def test_json_is_the_record_and_more(cli: Cli, study_folder: Path) -> None:
    record = read_records(study_folder)[4]
    done = cli("show", study_folder, 4, "--json")
    said = json.loads(done.out)
    assert said.items() >= record.to_dict().items()
    assert (said["trial"], said["log"], said["replicas"]) == (4, "", {})
    assert said["commands"] == commands_for(study_folder, 4, record)


def test_what_went_wrong_is_told(cli: Cli, study_folder: Path) -> None:
    change(
        study_folder,
        3,
        status="failed",
        reason="RuntimeError: [no] luck",
        accuracy=None,
        history=[],
        measured=None,
        study={"attempts": ["timeout after 9 s", "crash: SIGKILL"]},
    )
    (study_folder / "logs").mkdir(exist_ok=True)
    (study_folder / "logs" / "0003.txt").write_text("early\n" + "x" * 3000 + "\nlast [words]\n")
    done = cli("show", study_folder, 3)
    assert done.code == 0
    assert "status           failed: RuntimeError: [no] luck\n" in done.out
    assert "attempts before  timeout after 9 s; crash: SIGKILL\n" in done.out
    assert "last [words]\n" in done.out
    assert "early" not in done.out
    assert "\naccuracy " not in done.out
    said = json.loads(cli("show", study_folder, 3, "--json").out)
    assert said["log"].endswith("x\nlast [words]")


def test_what_was_stopped_says_how_far_it_came(cli: Cli, study_folder: Path) -> None:
    change(study_folder, 2, status="stopped", reason="behind", history=[0.25, 0.5], history_epochs=[1, 3])
    done = cli("show", study_folder, 2)
    assert "status           stopped: behind\n" in done.out
    assert "on the way       25.0% after epoch 1, 50.0% after epoch 3\n" in done.out


def test_fresh_runs_are_named(cli: Cli, study_folder: Path) -> None:
    record = read_records(study_folder)[2]
    for number, accuracy in ((20, 0.5), (21, None)):
        study = {**record.study, "replica": number - 19}
        write_record(study_folder, number, replace(record, accuracy=accuracy, study=study))
    assert "fresh runs       trial 20: 50.0%, trial 21: none\n" in cli("show", study_folder, 2).out
    fresh = cli("show", study_folder, 20).out
    assert f"seed             {record.seed}, replica 1\n" in fresh
    assert "fresh runs       trial 21: none\n" in fresh
    said = json.loads(cli("show", study_folder, 2, "--json").out)
    assert said["replicas"] == {"20": 0.5, "21": None}


def test_a_run_of_a_comparison_can_be_shown(cli: Cli, compared_folder: Path) -> None:
    done = cli("show", compared_folder, 0)
    assert (done.code, done.err) == (0, "")
    assert "counting" not in done.out


def test_a_record_of_a_failed_start_can_be_shown(cli: Cli, study_folder: Path) -> None:
    lost: dict[str, Any] = {"predicted": {}, "measured": None, "provenance": {}, "split": "", "weights": ""}
    change(study_folder, 3, status="failed", reason="no", accuracy=None, history=[], **lost)
    assert cli("show", study_folder, 3).code == 0


# --- the commands that it names -------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(7))
def test_the_command_of_its_cost_gives_its_cost(cli: Cli, study_folder: Path, number: int) -> None:
    record = read_records(study_folder)[number]
    command = shlex.split(commands_for(study_folder, number, record)["its cost"])
    said = json.loads(cli(*command[1:], "--json").out)
    assert said["config"] == record.config
    assert said["predicted"].items() >= record.predicted.items()


def test_the_command_of_its_cost_says_all_that_is_not_usual(cli: Cli, study_folder: Path) -> None:
    unusual = Config(
        *("toy", 32, 7, 6, "amp_bf16", "sgd_momentum", "math", "last(k=1)", "foreach", 3, False),
        lr=0.5,
    )
    record = change(study_folder, 1, config=unusual.to_dict())
    command = shlex.split(commands_for(study_folder, 1, record)["its cost"])
    assert json.loads(cli(*command[1:], "--json").out)["config"] == replace(unusual, lr=None).to_dict()


def test_the_other_commands_run(cli: Cli, study_folder: Path, tmp_path: Path) -> None:
    record = read_records(study_folder)[1]
    commands = commands_for(study_folder, 1, record)
    assert cli(*shlex.split(commands["as a file"])[1:]).code == 0
    assert Experiment.from_toml(tmp_path / "trial-1.toml").config == Config.from_dict(record.config)
    assert cli(*shlex.split(commands["train it again"])[1:]).code == 0


def test_the_accuracy_of_each_task_is_shown(cli: Cli, study_folder: Path) -> None:
    change(study_folder, 1, accuracy_by_task={"digits": 0.5, "photos": 0.125})
    text = " ".join(cli("show", study_folder, 1).out.split())
    assert ", mean of the tasks by task digits 50.0%, photos 12.5% " in text
