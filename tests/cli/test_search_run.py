"""A search from its study to its report: where its trials run, and what is finished or not to be touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.search import plan
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.processes import Processes
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import LOCK, Study
from tests.cli.test_search import FLAGS

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]


def test_trials_run_in_processes_unless_told_otherwise(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.cli import search_run as module

    made: list[Any] = []
    make = module.make_workers

    def noting(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(module, "make_workers", noting)
    start = FLAGS[: FLAGS.index("--jobs")]
    for jobs in ((), ("--jobs", "3"), ("--jobs", "0")):
        assert quick(*start, *jobs, "--dry-run").code == 0
    assert [(type(workers), workers.jobs) for workers in made] == [(Processes, 1), (Processes, 3), (Here, 1)]
    assert made[0].imports == ("sklearn.datasets",)


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(*_: Any) -> None:
        pytest.fail("a finished search loads and times nothing")

    monkeypatch.setattr(plan, "settle", settle)


def everything(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("nothing_loaded")
def test_a_finished_search_says_so_and_what_goes_on(quick: Cli, study_folder: Path) -> None:
    (study_folder / "report.html").touch()
    before = everything(study_folder)
    done = quick(*FLAGS, "--out", study_folder, "--trials", "7")
    assert (done.code, done.err) == (0, "")
    first, more, again, *_ = done.out.splitlines()
    assert first.startswith("toy-study is finished: 7 trials, the last at 20")
    assert first.endswith("; nothing is left to train.")
    assert "--trials N, more than 7" in more
    assert f"--fresh, which moves {study_folder} to {study_folder}.1" in again
    assert "Recommended: " in done.out
    assert everything(study_folder) == before


@pytest.mark.usefixtures("nothing_loaded")
def test_a_finished_search_says_so_in_json(quick: Cli, study_folder: Path) -> None:
    (study_folder / "report.html").touch()
    done = quick(*FLAGS, "--out", study_folder, "--trials", "5", "--json")
    assert (done.code, done.out.count("\n")) == (0, 1)
    answer = json.loads(done.out)
    assert (answer["ended"], answer["finished_before"]["trials"], answer["files"]) == ("trials", 7, [])
    times = [record.provenance["time"] for record in read_records(study_folder).values()]
    assert answer["finished_before"]["time"] == max(times)
    assert answer["recommended"]["trial"] in [entry["trial"] for entry in answer["front"]]


def test_a_report_that_ctrl_c_broke_off_is_written(
    quick: Cli, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study_folder / "report.html").touch()  # of fewer trials

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    command = (*FLAGS, "--out", study_folder, "--trials", "8")
    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.cli.search_run.write_report", stop)
        assert quick(*command).code == 130
    assert not (study_folder / "report.html").read_text()
    done = quick(*command)
    assert done.out.startswith("toy-study is finished: 8 trials, ")
    assert f"  {study_folder}/report.{{md,html}}\n" in done.out
    assert (study_folder / "report.html").read_text()
    assert "Written:" not in quick(*command).out


def test_more_fresh_seeds_go_on(quick: Cli, study_folder: Path) -> None:
    done = quick(*FLAGS, "--out", study_folder, "--trials", "7", "--replicas", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["finished_before"] is None
    assert any(record.study["replica"] == 1 for record in read_records(study_folder).values())


def test_a_fresh_start_moves_the_study_aside(quick: Cli, study_folder: Path) -> None:
    before = everything(study_folder)
    old = study_folder.with_name("toy-study.1")
    done = quick(*FLAGS, "--out", study_folder, "--trials", "1", "--seed", "3", "--fresh")
    assert done.code == 0, done.err
    assert f"moved aside: {study_folder} is now {old}" in done.err
    assert everything(old).items() >= before.items()
    assert len(read_records(study_folder)) == 1
    assert Study.from_toml(study_folder / "study.toml").seed == 3  # another study may take its place
    done = quick(*FLAGS, "--out", study_folder, "--trials", "1", "--fresh", "--json")
    assert json.loads(done.out)["finished_before"] is None
    assert len(read_records(study_folder.with_name("toy-study.2"))) == 1


@pytest.mark.parametrize("flags", [("--budget", "1KB"), ("--dry-run",)], ids=" ".join)
def test_nothing_is_moved_before_the_search_begins(
    quick: Cli, study_folder: Path, flags: tuple[str, ...]
) -> None:
    before = everything(study_folder.parent)
    quick(*FLAGS, "--out", study_folder, *flags, "--fresh")
    assert everything(study_folder.parent) == before


@pytest.mark.parametrize("flags", [(), ("--fresh",)])
def test_a_folder_in_use_is_refused_before_anything_is_loaded(
    quick: Cli, study_folder: Path, flags: tuple[str, ...], nothing_loaded: None
) -> None:
    with alone(study_folder, LOCK, "search"):
        done = quick(*FLAGS, "--out", study_folder, "--trials", "9", *flags)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: --out: another search is at work in {study_folder}; wait for it, or give another --out\n"
    )
    assert not study_folder.with_name("toy-study.1").exists()


def test_a_folder_without_a_study_is_not_moved(quick: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    assert quick(*FLAGS, "--out", "mine", "--trials", "1", "--fresh").code == 0
    assert (tmp_path / "mine" / "letter").read_text() == "dear"
    assert len(read_records(tmp_path / "mine")) == 1
