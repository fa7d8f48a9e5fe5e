"""How the trials of a search are run, whichever command asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.cli.progress import watching
from bsr_explorer.errors import UserError, require
from bsr_explorer.store.study import Study
from bsr_explorer.units import parse_bytes

if TYPE_CHECKING:
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.endings import Ended
    from bsr_explorer.search.executors.base import Executor
    from bsr_explorer.search.speed import Clock

TIME_LIMIT = 480.0
"""Seconds that a search takes if nothing else is said: with its start and its report, under 10 minutes."""


def cache_bytes(cache: str) -> int | None:
    """The most bytes of cached prefixes, of a number with a unit; None of ``none``.

    Raises:
        UserError: it is neither.
    """
    return None if cache.strip() == "none" else parse_bytes(cache, "--cache")


def checked_jobs(jobs: int | None, cluster: str | None) -> int | None:
    """The number of trials at once, if it is one and there is what they are to run on.

    Raises:
        UserError: no such number, or Ray is not installed.
    """
    if jobs is not None and jobs < 0:
        raise UserError(f"--jobs: {jobs} must be a whole number of at least 0")
    if cluster is not None:
        require("ray", "--cluster:", "cluster")
    return jobs


def make_job(study: Study, data_dir: Path, cache: int | None) -> Job:
    """What the trials of a study need beside their configurations, with at most so many bytes of cached prefixes."""
    from bsr_explorer.finetune.job import Job
    from bsr_explorer.prefix.cache import Cache

    kept = None if cache is None else Cache(most_bytes=cache)
    return Job(study.data, study.fidelity, study.weights, data_dir=data_dir, cache=kept)


def make_workers(study: Study, jobs: int | None, cluster: str | None) -> Executor:
    """Where the trials of a study run.

    Raises:
        UserError: no such cluster.
    """
    if cluster is not None:
        from bsr_explorer.search.executors.ray import Ray

        return Ray(cluster, study.config.device, jobs)
    if jobs == 0:
        from bsr_explorer.search.executors.here import Here

        return Here()
    from bsr_explorer.search.executors.processes import Processes

    # What digits are read with takes longer to load than a short trial to train.
    more = ["sklearn.datasets"] if study.data == "digits" else []
    return Processes(1 if jobs is None else jobs, more)


def train(searching: Search, clock: Clock, timeout: float | None, new: bool = True) -> Ended:
    """Run the search under a progress bar."""
    with watching(searching, clock) as watcher:
        return searching.run(
            watcher, lambda candidate: clock.expected(candidate.config, candidate.proxy), timeout, new
        )
