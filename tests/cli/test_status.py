"""``bsr-explore status``: how far a study is, from what lies in its folder, and the command that comes next."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bsr_explorer.pareto import hypervolume
from bsr_explorer.report.front import front, points
from bsr_explorer.search.coordinator import Search
from bsr_explorer.store.database import DATABASE
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.reopened import open_folder
from bsr_explorer.store.study import LOCK, Study

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]


def lines(done: Any) -> list[str]:
    assert done.code == 0, done.err
    return [" ".join(line.split()) for line in done.out.splitlines()]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_study(cli: Cli, study_folder: Path) -> None:
    before = content(study_folder)
    said = lines(cli("status", study_folder))
    assert said[0].startswith("toy-study: toy, digits, budget 1400KB = 1.4 MB (1.3 MiB), counting all that")
    assert said[1] == "7 trials wanted: 7 finished"
    known = points(read_records(study_folder))
    for point in front(known):
        assert any(
            line.startswith(f"{point.said} ") and f" {point.number} " in line and "linear bsr" not in line
            for line in said
        )
    area = hypervolume([p.bytes for p in known], [p.score for p in known], 1_400_000)
    assert any(line.startswith(f"hypervolume {area:.4f}: ") for line in said)
    assert said[-1] == f"next: bsr-explore train {study_folder} --select recommended"
    assert "Not finished" not in said
    assert content(study_folder) == before


def test_it_is_all_in_the_json(cli: Cli, study_folder: Path, make_study: MakeStudy) -> None:
    answer = json.loads(cli("status", study_folder, "--json").out)
    assert answer["study"] == make_study().to_toml()
    assert answer["at_work"] is False
    assert answer["states"] == {
        "finished": 7,
        "stopped at a rung": 0,
        "failed": 0,
        "running": 0,
        "waiting": 0,
    }
    assert answer["fresh_seeds"] == 0
    ahead = front(points(read_records(study_folder)))
    assert [(e["trial"], e["accuracy"]) for e in answer["front"]] == [(p.number, p.score) for p in ahead]
    assert answer["failed"] == []
    assert answer["next"] == f"bsr-explore train {study_folder} --select recommended"


def test_what_failed_is_told_with_its_reason(cli: Cli, study_folder: Path, open_search: OpenSearch) -> None:
    record = read_records(study_folder)[6]
    attempts = [{"kind": "crash", "reason": "its process exited", "tail": "oh no"}]
    lost = replace(
        record,
        status="failed",
        accuracy=None,
        reason="a wrong turn",
        study={**record.study, "number": 7, "attempts": attempts},
    )
    write_record(study_folder, 7, lost)
    (study_folder / DATABASE).unlink()
    open_search(Study.from_toml(study_folder / "study.toml"), study_folder)
    said = lines(cli("status", study_folder))
    assert said[1] == "7 trials wanted: 7 finished, 1 failed"
    assert f"7 failed a wrong turn {record.method}" in " ".join(said[said.index("Not finished") :])
    assert said[-1] == f"next: bsr-explore retry {study_folder} --failed"
    (failed,) = json.loads(cli("status", study_folder, "--json").out)["failed"]
    assert failed == {
        "trial": 7,
        "method": record.method,
        "status": "failed",
        "reason": "a wrong turn",
        "attempts": attempts,
    }


def test_a_study_that_was_stopped_goes_on_by_its_search(
    cli: Cli, study_folder: Path, open_search: OpenSearch, make_study: MakeStudy
) -> None:
    search = open_search(make_study(trials=9), study_folder)
    search.book.add(search.space.at(5))
    search.book.add(search.space.at(6), state=TrialState.WAITING)
    said = lines(cli("status", study_folder))
    assert said[1] == (
        "9 trials wanted: 7 finished, 1 running, 1 waiting (left by a search that was stopped)"
    )
    assert said[-1] == f"next: bsr-explore search {study_folder}/study.toml --out {study_folder}"
    with alone(study_folder, LOCK, "search"):
        said = lines(cli("status", study_folder))
    assert said[1] == "9 trials wanted: 7 finished, 1 running, 1 waiting; a search is at work"
    assert not any(line.startswith("next:") for line in said)


def test_fresh_seeds_that_are_missing_are_next(
    cli: Cli, study_folder: Path, open_search: OpenSearch, make_study: MakeStudy, quiet: Any
) -> None:
    study = make_study(replicas=2)
    open_search(study, study_folder)
    said = lines(cli("status", study_folder))
    assert said[-1].startswith("next: bsr-explore search ")
    open_search(study, study_folder).run(quiet)
    said = lines(cli("status", study_folder))
    seeds = 2 * len(front([p for p in points(read_records(study_folder)) if p.seeds > 1]))
    assert said[1].startswith("7 trials wanted: 7 finished; ")
    assert seeds <= int(said[1].split("; ")[1].split()[0])
    assert any("(2 seeds)" in line for line in said)
    assert said[-1].startswith("next: bsr-explore train ")


def test_a_study_that_has_not_begun(cli: Cli, make_study: MakeStudy, tmp_path: Path) -> None:
    open_folder(make_study(), tmp_path / "new", "a command")
    said = lines(cli("status", "new"))
    assert said[1] == "7 trials wanted: none begun"
    assert said[-1] == "next: bsr-explore search new/study.toml --out new"


def test_records_without_a_database_are_trials_too(cli: Cli, study_folder: Path) -> None:
    (study_folder / DATABASE).unlink()  # as in a clone, where git keeps none
    said = lines(cli("status", study_folder))
    assert said[1] == "7 trials wanted: 7 finished"
    assert said[-1] == f"next: bsr-explore train {study_folder} --select recommended"


def test_no_study_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("status", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: STUDY: {tmp_path} is not the folder of a study (it has no study.toml)\n"


def test_what_is_no_database_is_refused(cli: Cli, study_folder: Path) -> None:
    (study_folder / DATABASE).write_text("no database " * 100)
    done = cli("status", study_folder)
    assert done.code == 2
    assert "is no database of a study (file is not a database)" in done.err


@pytest.mark.parametrize("name", ["with space", "we$ird'"])
def test_the_next_command_can_be_pasted(cli: Cli, study_folder: Path, name: str) -> None:
    import shlex

    folder = study_folder.rename(study_folder.with_name(name))
    following = json.loads(cli("status", folder, "--json").out)["next"]
    assert shlex.split(following) == ["bsr-explore", "train", str(folder), "--select", "recommended"]
