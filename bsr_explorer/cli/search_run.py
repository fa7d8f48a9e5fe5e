"""A search from its study to its report. What can be refused or answered without torch comes first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bsr_explorer.cli.console import err, fail, out, say_written
from bsr_explorer.cli.progress import loading
from bsr_explorer.cli.report import show_found
from bsr_explorer.cli.search_said import show_dry_run, show_elsewhere, show_plan, summary
from bsr_explorer.cli.study_report import is_written, write_report
from bsr_explorer.cli.trials import TIME_LIMIT, make_job, make_workers, train
from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import aside, check_free, check_movable, check_writable, move_aside
from bsr_explorer.store.provenance import command
from bsr_explorer.store.study import FILE, LOCK, Study
from bsr_explorer.units import plural

if TYPE_CHECKING:
    from bsr_explorer.store.reopened import Finished

KEPT = ("study.toml", "study.db", "prior.json", "records", "logs")
"""What a study's folder holds beside its report."""


@dataclass(frozen=True)
class How:
    """How a search is run, whatever is searched.

    Attributes:
        cache: the most bytes of cached prefixes; None: nothing is cached.
        timeout: seconds after which a trial is ended; None: by what is expected.
        open: which of ``trials``, ``replicas`` and ``proxies`` the user leaves open: as many as the time allows, or
            as the study in the folder has.
        skip_bad: whether damaged images are left out.
        fresh: whether a study that is in the folder is moved aside.
    """

    data_dir: Path
    jobs: int | None
    cluster: str | None
    cache: int | None
    timeout: float | None
    open: frozenset[str]
    skip_bad: bool
    fresh: bool
    dry_run: bool
    as_json: bool


def searched_by(study: Study, folders: Sequence[Path]) -> tuple[str, ...]:
    """What is searched where no family is named: what a study that is gone on with searches, or one that this begins
    with; else what pays, as far as its costs can be laid out for this model."""
    from bsr_explorer.prediction import geometry_of
    from bsr_explorer.search.laid import searched

    for folder in folders:
        if (folder / FILE).is_file():
            return Study.from_toml(folder / FILE).space.families
    return searched(geometry_of(study.config), study.counts)


def run(study: Study, folder: Path, how: How) -> None:
    """Refuse or answer what can be without torch; then search, and show what came of it."""
    from bsr_explorer.search.space import Space
    from bsr_explorer.store import reopened

    replaced = how.fresh and (folder / FILE).exists()
    stored = None if replaced else reopened.stored_study(study, folder, how.open)
    if stored is not None and "proxies" in how.open and not stored.proxies:
        raise UserError(
            f"--fidelity: the study in {folder} trains at a single fidelity; leave the flag out to go on with it, or "
            "begin another study with --out"
        )
    if stored is not None and not how.dry_run and (before := reopened.finished(stored, folder)) is not None:
        _show_finished(before, stored, folder, how.as_json)
        return
    space = Space(study)
    space.check_budget()
    if stored is not None and not how.dry_run:
        before = reopened.finished(stored, folder, most=space.fitting)
        if before is not None:
            _show_finished(before, stored, folder, how.as_json)
            return
    if study.prior is not None and stored is None:
        from bsr_explorer.search.prior import Prior

        Prior.read(study)
    check_writable(folder)
    check_free(folder, LOCK, "search")
    if replaced:
        check_movable(folder)
    from bsr_explorer.finetune.build import is_here

    if how.dry_run and not is_here(study.config):
        show_elsewhere(study, space, how.as_json)
        return
    from bsr_explorer.finetune.job import load_data
    from bsr_explorer.search import plan
    from bsr_explorer.search.coordinator import Search
    from bsr_explorer.search.speed import Clock
    from bsr_explorer.store.records import read_records

    workers, job = make_workers(study, how.jobs, how.cluster), make_job(study, how.data_dir, how.cache)
    with loading("loading weights and data, and timing this machine…") as told:
        settled = plan.settle(
            stored or study,
            space,
            job,
            TIME_LIMIT,
            workers,
            open=how.open if stored is None else (),
            skip_bad=how.skip_bad,
            told=told,
        )
    study = settled.study
    clock = Clock(study.fidelities, settled.speed, job.cache is not None)
    contents = load_data(study.config, replace(job, fidelity=study.fidelity, weights=study.weights)).contents
    if how.dry_run:
        show_dry_run(settled, space, workers, folder, contents, how.as_json)
        if replaced and not how.as_json:
            out.print(f"(--fresh would move what is there to {aside(folder)}.)", markup=False, soft_wrap=True)
        return
    if replaced:
        moved = move_aside(folder, LOCK, "search")
        err.print(f"moved aside: {folder} is now {moved}", markup=False, soft_wrap=True)
    study = reopened.open_folder(study, folder, command())
    job = replace(job, fidelity=study.fidelity, weights=study.weights)
    searching = Search(study, folder, space, job, workers)
    if not how.as_json:
        show_plan(settled, space, folder, searching, contents)
    ended = train(searching, clock, how.timeout)
    if not ended.finished:
        reasons = [record.reason for record in read_records(folder).values()] or [
            "the time limit left no room"
        ]
        fail(f"no trial finished: {reasons[-1]}; the records are in {folder}", code=1)
    made = write_report(folder, space=space)
    if how.as_json:
        print(json.dumps(summary(study, made.found, made.files, folder, ended.because)))
        return
    show_found(made.found, folder)
    say_written([*made.files, *(folder / name for name in KEPT if (folder / name).exists())])
    why = {
        "time": "The time limit was reached",
        "exhausted": "No other configuration is within the budget",
        "failures": "The last trials all failed, as their records say,",
    }
    if ended.because in why:
        more = "; the same command trains more" if ended.because == "time" else ""
        out.print(f"{why[ended.because]} after {ended.finished} of {plural(study.trials, 'trial')}{more}.")


def _show_finished(before: Finished, study: Study, folder: Path, as_json: bool) -> None:
    """Say that a study has nothing left to train, what it came to, and what goes on. Nothing is trained, and nothing
    written but a report that is missing."""
    from bsr_explorer.report.study.findings import Findings

    missing = not is_written(folder)
    if as_json:
        ended, files = (
            "exhausted" if before.exhausted else "trials",
            write_report(folder).files if missing else [],
        )
        print(json.dumps(summary(study, Findings.read(folder), files, folder, ended, before)))
        return
    more = (
        "with a larger --budget and another --out; all that fits this one was tried"
        if before.exhausted
        else f"with --trials N, more than {before.trials}"
    )
    out.print(
        f"{study.name} is finished: {before.said()}; nothing is left to train.\n"
        f"  more trials:  the same command {more}\n"
        f"  start again:  the same command with --fresh, which moves {folder} to {aside(folder)}\n"
        f"  its report:   bsr-explore report {shlex.quote(str(folder))}\n",
        markup=False,
        soft_wrap=True,
    )
    files = write_report(folder).files if missing else []
    show_found(Findings.read(folder), folder)
    if files:
        say_written(files)
