"""``bsr-explore retry``: train again what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import err, out, parse_seconds
from bsr_explorer.cli.trials import TIME_LIMIT, cache_bytes, checked_jobs, make_job, make_workers, train
from bsr_explorer.data.places import default_data_dir
from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import check_writable, read_study
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import Study
from bsr_explorer.train.recipes import check_optimizer
from bsr_explorer.units import plural

if TYPE_CHECKING:
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.search.executors.base import Executor


def retry(
    folder: options.StudyFolder,
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[TRIAL]...", help="Numbers of trials, as in the tables.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All trials that failed.")] = False,
    jobs: options.Jobs = None,
    cluster: options.Cluster = None,
    trial_timeout: options.TrialTimeout = None,
    cache: options.Cache = "4GB",
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Train failed and crashed trials again, as new trials with the same seeds. No other trial starts.

    A trial that ran out of memory is trained again only if it can get more memory than it had.

    Examples:

      bsr-explore retry reports/deit_s-digits-2GB --failed

      bsr-explore retry reports/deit_s-digits-2GB 4 7 --jobs 1
    """
    if failed == bool(numbers):
        raise UserError("TRIAL: give the numbers of trials, or --failed for all that failed")
    study = read_study(folder)
    timeout = None if trial_timeout is None else parse_seconds(trial_timeout, "--trial-timeout")
    cached, at_once = cache_bytes(cache), checked_jobs(jobs, cluster)
    check_optimizer(study.config.optimizer)
    check_writable(folder, "STUDY", "copy it to where it can be")
    workers = make_workers(study, at_once, cluster)
    job = make_job(study, data_dir or default_data_dir(), cached)
    asked, refused = _retry(study, folder, numbers, workers, job, timeout)
    records = read_records(folder)
    finished = [number for number in asked if number in records and records[number].status == "finished"]
    if as_json:
        print(json.dumps({"asked": asked, "refused": refused, "finished": finished}))
        return
    for line in refused:
        err.print(f"not trained again: {line}", markup=False)
    out.print(f"trained again: {len(finished)} of {plural(len(asked), 'trial')} finished")
    if finished:
        out.print(f"next:  bsr-explore report {folder}", markup=False, soft_wrap=True)


def _retry(
    study: Study,
    folder: Path,
    numbers: list[int] | None,
    workers: Executor,
    job: Job,
    timeout: float | None,
) -> tuple[list[int], list[str]]:
    """Train; returns what was asked for, and why others were not."""
    from bsr_explorer.search import plan
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.space import Space
    from bsr_explorer.search.speed import Clock

    space = Space(study)
    searching = Search(study, folder, space, job, workers)
    asked, refused = searching.retry(numbers or None)
    if asked:
        with err.status("loading weights and data, and timing this machine…"):
            settled = plan.settle(study, space, job, TIME_LIMIT, workers)
        clock = Clock(settled.study.fidelities, settled.speed, job.cache is not None)
        train(searching, clock, timeout, new=False)
    return asked, refused
