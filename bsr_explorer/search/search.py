"""The search: propose, train, record, tell; again. It survives being killed at any moment.

Order of writes of a trial: it is added to the database as running, with its parameters; it trains; its
record is written whole; the database is told. On resume, a running trial that has its record is told
from it, and one that has none is failed, so that nothing finished is lost or trained again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DatabaseError

from bsr_explorer.errors import UserError
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.run import Job, attempt
from bsr_explorer.search.proposals import Sampler, TpeSampler, derived_seed, propose
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.store.study import FILE, Study

DATABASE = "study.db"
LOCK = "study.lock"

INTERRUPTED = "interrupted before it finished"
"""Reason of trials that are trained again."""

FAILURES = 3
"""Trials in a row that raise an error before a search gives up: the next would most likely raise it too."""


class Watcher(Protocol):
    """What a user is shown while a search runs."""

    def trial_starts(self, number: int, candidate: Candidate, finished: int) -> None:
        """A trial begins; ``finished`` are done."""

    def step(self, done: int, total: int, loss: float) -> None:
        """One training step of the current trial is done."""

    def trial_ends(self, number: int, record: Record) -> None:
        """A trial has its record."""


@dataclass(frozen=True)
class Ended:
    """Why a search ended: ``trials`` reached, ``time`` over, the space ``exhausted``, or too many
    ``failures`` in a row."""

    because: str
    finished: int
    failed: int


def open_folder(study: Study, folder: Path, command: str) -> Study:
    """Make or reopen a study's folder; returns the study, completed by what the folder has decided.

    Raises:
        UserError: the folder cannot be written, or holds a study of another space (with the differences).
    """
    stored = stored_study(study, folder)
    if stored is not None:
        return stored
    try:
        folder.mkdir(parents=True, exist_ok=True)
        study.write(folder, command)
    except OSError as error:
        raise UserError(
            f"--out: {folder} cannot be written ({error.strerror}); choose another folder"
        ) from None
    return study


def stored_study(study: Study, folder: Path) -> Study | None:
    """The study of an existing folder, if it is the same as ``study``; None where there is none.

    Raises:
        UserError: it is another study, with the differences.
    """
    if not (folder / FILE).exists():
        return None
    stored = Study.from_toml(folder / FILE)
    same = study.completed_by(stored)
    differences = stored.differences(same)
    if differences:
        raise UserError(
            f"--out: {folder} holds a study of another space ({'; '.join(differences)}); "
            "give the same settings to go on, or another --out"
        )
    return replace(same, name=stored.name)


class Search:
    """One study's search, with its database open.

    Args:
        study: with nothing left open in its fidelity but what means "all of it".
        folder: of the study; see ``open_folder``.
        job: data and weights of every trial (the seed is each trial's own).
    """

    def __init__(
        self, study: Study, folder: Path, space: Space, job: Job, sampler: Sampler | None = None
    ) -> None:
        self.study, self.folder, self.space, self.job = study, folder, space, job
        self.sampler = sampler or TpeSampler()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.optuna = optuna.create_study(
                storage=f"sqlite:///{folder / DATABASE}",
                study_name=study.name,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
        except DatabaseError as error:
            raise UserError(
                f"--out: {folder / DATABASE} cannot be used as a database ({error.orig}); give another --out"
            ) from None
        with warnings.catch_warnings():  # optuna calls naming the objectives experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.optuna.set_metric_names(["validation accuracy", f"{study.counts} bytes"])
        with alone(self.folder, LOCK, "search"):
            self.repaired = self._repair()
        self.started = time.monotonic()

    def _repair(self) -> int:
        """Settle what a killed search left running; returns how many trials that were."""
        records = read_records(self.folder)
        left = [t for t in self.optuna.trials if t.state == TrialState.RUNNING]
        for trial in left:
            if trial.number in records:
                self._tell(trial.number, records[trial.number])
            else:
                self._tell_failed(trial.number, INTERRUPTED)
        return len(left)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states."""
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state in states]

    def run(self, watcher: Watcher, expected: Callable[[Candidate], float] = lambda c: 0.0) -> Ended:
        """Train until the study has its trials, or its time is over.

        Args:
            expected: seconds that a candidate is expected to take: none is begun that would overrun.
        """
        with alone(self.folder, LOCK, "search"):
            return self._run(watcher, expected)

    def _run(self, watcher: Watcher, expected: Callable[[Candidate], float]) -> Ended:
        self.started, limit = time.monotonic(), self.study.time_limit
        failures = 0
        while True:
            finished = self.trials(TrialState.COMPLETE)
            if len(finished) >= self.study.trials:
                return self._ended("trials")
            candidate = self._next(finished)
            if candidate is None:
                return self._ended("exhausted")
            if limit is not None and time.monotonic() - self.started + expected(candidate) > limit:
                return self._ended("time")
            record = self._train(candidate, len(finished), watcher)
            failures = failures + 1 if record.status == "failed" else 0
            if failures == FAILURES:
                return self._ended("failures")

    def _ended(self, because: str) -> Ended:
        return Ended(because, len(self.trials(TrialState.COMPLETE)), len(self.trials(TrialState.FAIL)))

    def _next(self, finished: list[FrozenTrial]) -> Candidate | None:
        """First what was interrupted; then a proposal. Neither twice what has an outcome."""
        ended = self.trials(TrialState.COMPLETE, TrialState.FAIL)
        interrupted = [t for t in ended if t.user_attrs.get("reason") == INTERRUPTED]
        settled = {t.user_attrs["key"] for t in ended if t not in interrupted}
        for trial in interrupted:
            if trial.user_attrs["key"] not in settled:
                return self.space.decode(trial.params)
        seed = derived_seed(self.study.seed, "proposal", len(ended))
        return propose(self.space, self.sampler, finished, settled, seed)

    def _train(self, candidate: Candidate, finished: int, watcher: Watcher) -> Record:
        number = self._begin(candidate)
        watcher.trial_starts(number, candidate, finished)
        # Each experiment has its own seed, the same however the search came to it.
        job = replace(self.job, seed=derived_seed(self.study.seed, candidate.key, 0))
        with self._settled(number):
            record = attempt(candidate.config, candidate.key, job, watcher.step)
            record = replace(record, study=self._context(number, candidate))
            write_record(self.folder, number, record)
            self._tell(number, record)
        watcher.trial_ends(number, record)
        return record

    def _begin(self, candidate: Candidate) -> int:
        """Add the trial as running; returns its number."""
        self.optuna.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=self.space.encode(candidate),
                distributions=self.space.distributions,
                user_attrs={
                    "key": candidate.key,
                    "method": str(candidate.config.method),
                    "counted_bytes": candidate.counted_bytes,
                },
            )
        )
        return len(self.optuna.get_trials(deepcopy=False)) - 1

    @contextmanager
    def _settled(self, number: int) -> Iterator[None]:
        """A trial that is left by Ctrl-C, or by an error of the whole study, is settled at once."""
        try:
            yield
        except BaseException:
            running = self.optuna.get_trials(deepcopy=False)[number].state == TrialState.RUNNING
            if running and number not in read_records(self.folder):  # else the next start tells its record
                self._tell_failed(number, INTERRUPTED)
            raise

    def _tell(self, number: int, record: Record) -> None:
        """Tell the database what a record says."""
        if record.status == "finished" and record.accuracy is not None:
            self.optuna.tell(number, [record.accuracy, float(record.study["counted_bytes"])])
        else:
            self._tell_failed(number, record.reason)

    def _tell_failed(self, number: int, reason: str) -> None:
        trial_id = self.optuna.get_trials(deepcopy=False)[number]._trial_id
        self.optuna._storage.set_trial_user_attr(trial_id, "reason", reason)
        self.optuna.tell(number, state=TrialState.FAIL)

    def _context(self, number: int, candidate: Candidate) -> dict[str, Any]:
        """What a report needs to know of the study, so that it reads records only."""
        full = self.study.config.with_method("full")
        reference = predict(full).summary()
        return {
            "name": self.study.name,
            "number": number,
            "budget": self.study.budget,
            "budget_bytes": self.study.budget_bytes,
            "counts": self.study.counts,
            "counted_bytes": candidate.counted_bytes,
            "full": {**reference, "counted_bytes": counted_bytes(full, self.study.counts)},
        }
