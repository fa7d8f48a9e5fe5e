"""``bsr-explore retry``: what failed is trained again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.finetune.job import Job
from bsr_explorer.finetune.run import run
from bsr_explorer.search.coordinator import Search
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.study import Study

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]


@pytest.fixture
def failed(
    monkeypatch: pytest.MonkeyPatch,
    make_study: MakeStudy,
    open_search: OpenSearch,
    tmp_path: Path,
    quiet: Any,
) -> Path:
    """The folder of a study whose first trial failed, and whose second ran out of memory."""
    errors = iter([RuntimeError("a wrong turn"), MemoryError("too much")])

    def sometimes(config: Config, job: Job, progress: Any, *watch: Any) -> Record:
        error = next(errors, None)
        if error is not None:
            raise error
        return run(config, job, progress, *watch)

    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
        open_search(make_study(trials=2), tmp_path / "study").run(quiet)
    return tmp_path / "study"


@pytest.mark.thorough
@pytest.mark.parametrize("which", [("--failed",), ("0", "1")], ids=" ".join)
def test_what_failed_is_trained_again(cli: Cli, failed: Path, which: tuple[str, ...]) -> None:
    before = read_records(failed)
    done = cli("retry", failed, *which, "--jobs", "0")
    assert done.code == 0, done.err
    assert "trained again: 1 of 1 trial finished" in done.out
    assert f"next:  bsr-explore report {failed}" in done.out
    assert "not trained again: trial 1: out of memory" in " ".join(done.err.split())
    records = read_records(failed)
    assert records.items() >= before.items()
    assert [number for number in records if number not in before] == [4]
    assert (records[4].status, records[4].key, records[4].seed) == (
        "finished",
        before[0].key,
        before[0].seed,
    )


def test_it_is_all_in_the_json(cli: Cli, failed: Path) -> None:
    answer = json.loads(cli("retry", failed, "--failed", "--jobs", "0", "--json").out)
    assert (answer["asked"], answer["finished"]) == ([4], [4])
    assert len(answer["refused"]) == 1
    answer = json.loads(cli("retry", failed, "--failed", "--jobs", "0", "--json").out)
    assert (answer["asked"], answer["finished"]) == ([], [])


@pytest.mark.parametrize("which", [(), ("0", "--failed")])
def test_either_numbers_or_all_that_failed(cli: Cli, failed: Path, which: tuple[str, ...]) -> None:
    done = cli("retry", failed, *which)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: TRIAL: give the numbers of trials, or --failed for all that failed\n"


def test_a_trial_that_did_not_fail_is_refused(cli: Cli, failed: Path) -> None:
    done = cli("retry", failed, "2", "--jobs", "0")
    assert done.code == 2
    assert done.err == "error: TRIAL: 2 is no trial that failed; those are [0, 1]\n"


def test_no_study_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("retry", tmp_path, "--failed")
    assert done.code == 2
    assert done.err.startswith(f"error: STUDY: {tmp_path} is not the folder of a study")
