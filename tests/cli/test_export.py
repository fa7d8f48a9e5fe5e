"""``bsr-explore export``: a file that ``profile``, ``train`` and ``search`` take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.prediction import predict
from bsr_explorer.report.choice import knee
from bsr_explorer.report.front import study_front
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import FILE, Study

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]


@pytest.fixture
def exported(cli: Cli, study_folder: Path, tmp_path: Path) -> Path:
    """Trial 3 as a file."""
    path = tmp_path / "best.toml"
    done = cli("export", study_folder, "--select", "trial 3", "--out", path)
    assert (done.code, done.err, done.out) == (0, "", f"\nWritten:\n  {path}\n")
    return path


def test_the_file_is_of_the_trial(exported: Path, study_folder: Path) -> None:
    record = read_records(study_folder)[3]
    made = Experiment.from_toml(exported)
    assert made.name == "toy-study-trial-3"
    assert made.config == Config.from_dict(record.config)
    assert made.fidelity == Fidelity(**record.fidelity)
    assert (made.data, made.weights, made.seed) == (record.data, "random", record.seed)


def test_without_a_file_it_is_printed(cli: Cli, exported: Path, study_folder: Path) -> None:
    done = cli("export", study_folder, "--select", "trial 3")
    assert (done.code, done.err) == (0, "")
    assert done.out == exported.read_text().replace(str(exported), "FILE")


def test_a_criterion_stands_for_a_trial(cli: Cli, study_folder: Path) -> None:
    choice = knee(study_front(study_folder))
    done = cli("export", study_folder, "--select", "knee")
    assert done.code == 0
    assert done.out.startswith(f"# Trial {choice.point.number} of {study_folder}: ")
    assert f"\n# Taken because: {choice.reason}.\n" in done.out


def test_profile_takes_it(cli: Cli, exported: Path, study_folder: Path) -> None:
    record = read_records(study_folder)[3]
    said = json.loads(cli("profile", exported, "--json").out)
    assert said["config"] == record.config
    assert said["predicted"].items() >= record.predicted.items()


def test_train_takes_it_and_comes_to_the_same(cli: Cli, exported: Path, study_folder: Path) -> None:
    record = read_records(study_folder)[3]
    done = cli("train", exported, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    same = ("accuracy", "history", "losses", "key", "split", "weights", "measured", "predicted")
    assert {name: said[name] for name in same} == {name: getattr(record, name) for name in same}


def test_search_takes_it_and_tries_it_first(cli: Cli, exported: Path, study_folder: Path) -> None:
    made, original = Study.from_toml(exported), Study.from_toml(study_folder / FILE)
    method = str(Experiment.from_toml(exported).config.method)
    assert made.space.start[0] == method
    assert sorted(made.space.start) == sorted({method, *original.space.start})
    assert (made.budget, made.trials) == (original.budget, original.trials)
    done = cli("search", exported, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["study"]["space"]["start"][0] == method


def test_a_configuration_alone_is_enough_for_profile(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "flat.toml"
    path.write_text('model = "toy"\nimage_size = 32\nbatch_size = 4\nmethod = "last(k=1)"\n')
    config = Config("toy", 32, batch_size=4, method="last(k=1)")
    said = json.loads(cli("profile", path, "--json", "--accounting", "saved").out)
    assert said["config"] == config.to_dict()
    assert said["predicted"]["total_bytes"] == predict(config).saved_bytes


def test_the_same_may_be_written_again(cli: Cli, exported: Path, study_folder: Path) -> None:
    before = exported.read_text()
    assert cli("export", study_folder, "--select", "trial 3", "--out", exported).code == 0
    assert exported.read_text() == before
