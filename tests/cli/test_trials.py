"""How the trials of a search are run: where, how many at once, and with which cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.cli.trials import cache_bytes, checked_jobs, make_job, make_workers
from bsr_explorer.errors import UserError
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.processes import Processes
from bsr_explorer.store.study import Study

MakeStudy = Callable[..., Study]


@pytest.mark.parametrize(
    ("said", "most"), [("none", None), (" none ", None), ("4GB", 4 * 10**9), ("1KiB", 1024)]
)
def test_a_cache_holds_so_many_bytes_or_any(said: str, most: int | None) -> None:
    assert cache_bytes(said) == most


def test_a_cache_without_a_unit_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--cache: '4G' has no unit that says its size"):
        cache_bytes("4G")


@pytest.mark.parametrize("jobs", [None, 0, 1, 3])
def test_no_number_of_trials_at_once_needs_a_package(
    jobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert checked_jobs(jobs, None) == jobs
    with pytest.raises(UserError, match=r"^--cluster: needs ray"):
        checked_jobs(jobs, "local")


def test_fewer_trials_at_once_than_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"^--jobs: -1 must be a whole number of at least 0"):
        checked_jobs(-1, None)


def test_a_job_is_of_the_study(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study()
    job = make_job(study, tmp_path, 2048)
    assert (job.data, job.fidelity, job.weights) == (study.data, study.fidelity, study.weights)
    assert job.data_dir == tmp_path
    assert job.cache is not None and job.cache.most_bytes == 2048
    assert make_job(study, tmp_path, None).cache is None


def test_trials_run_in_processes_or_here(make_study: MakeStudy) -> None:
    study = make_study()
    made = [make_workers(study, jobs, None) for jobs in (None, 3, 0)]
    assert [(type(workers), workers.jobs) for workers in made] == [(Processes, 1), (Processes, 3), (Here, 1)]


@pytest.mark.parametrize(("data", "imports"), [("digits", ("sklearn.datasets",)), ("cifar10", ())])
def test_a_process_loads_what_its_data_needs_before_its_first_trial(
    make_study: MakeStudy, data: str, imports: tuple[str, ...]
) -> None:
    workers = make_workers(replace(make_study(), data=data), 1, None)
    assert isinstance(workers, Processes)
    assert workers.imports == imports
