"""The search: propose, train, record, tell; again. It survives being killed at any moment.

One process, the coordinator, keeps the book; trials run where its workers let them. Order of writes of a
trial: it is added to the database as running, with all that its training follows from; it trains, leaving a
checkpoint after each epoch; its record is written whole; the database is told. On resume, a running trial that
has its record is told from it, and one that has none goes on under its own number. What is proposed, and where
a trial may be stopped, follows from earlier trials only, whatever the timing: a search that was killed ends
with the very trials of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from bsr_explorer import interrupt
from bsr_explorer.finetune.job import Job, load_data
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.search.book import WORTH, Book
from bsr_explorer.search.endings import AGAIN, Ended, Running, failing, record_of_crash, sound
from bsr_explorer.search.executors.base import Crashed, Done, Executor, Task
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.prior import Prior
from bsr_explorer.search.proposals import derived_seed, propose
from bsr_explorer.search.proxies import closing, efforts
from bsr_explorer.search.rungs import Seen, bars
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.search.watcher import Watcher
from bsr_explorer.store.database import fresh_seeds, own, replica_of
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record
from bsr_explorer.store.study import LOCK, Study

TIMEOUT, TIMES = 600.0, 10.0
"""A trial is ended after so many seconds, or so many times as long as was expected, whichever is later."""

GLANCE = 1.0
"""Seconds to wait at most for something to happen."""


@dataclass(frozen=True)
class _Next:
    """A trial to begin; one that has a ``number`` is in the book already."""

    candidate: Candidate
    replica: int = 0
    number: int | None = None
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


class Search:
    """One study's search, with its book open.

    Args:
        study: with nothing left open in its fidelity but what means "all of it".
        folder: of the study; see ``open_folder``.
        job: data and weights of every trial (the seed is each trial's own).
        workers: where trials run; in this process if nothing is said.
    """

    def __init__(
        self, study: Study, folder: Path, space: Space, job: Job, workers: Executor | None = None
    ) -> None:
        self.study, self.folder, self.space, self.job = study, folder, space, job
        self.workers = workers or Here()
        with interrupt.held(), alone(folder, LOCK, "search"):
            self.book = Book(study, folder, space)
            space.prior = Prior.of(study, folder)
            if study.proxies:
                space.efforts = efforts(study)
            study.update(folder)
        self.started = time.monotonic()

    def retry(self, numbers: Sequence[int] | None) -> tuple[list[int], list[str]]:
        """Ask for trials again that failed: see ``Book.retry``. They are trained by the next ``run``."""
        with interrupt.held(), alone(self.folder, LOCK, "search"), self.book.writing():
            self.book.repair()
            return self.book.retry(numbers, self.workers.room(self.study.config.device))

    def run(
        self,
        watcher: Watcher,
        expected: Callable[[Candidate], float] = lambda c: 0.0,
        timeout: float | None = None,
        new: bool = True,
    ) -> Ended:
        """Train until the study has its trials, and its front its fresh seeds, or its time is over.

        Args:
            expected: seconds that a candidate is expected to take: none is begun that would overrun, but for the
                first ones, while nothing has ended that would tell how far such an expectation is off.
            timeout: seconds after which a trial is ended; by default a generous many times what is expected.
            new: whether to train more than what was begun or asked for.

        Raises:
            UserError: what keeps every trial from being trained, such as missing data.
            OSError: a disk that is full or cannot be written.
        """
        with interrupt.held(), alone(self.folder, LOCK, "search"), self.book.writing():
            self.book.repair()  # again, for another process may have been here
            self.started, self._exhausted = time.monotonic(), False
            self._expected = expected
            self._running: dict[int, Running] = {}
            self._statuses: dict[int, str] = {}
            try:
                return self._run(watcher, expected, timeout, new)
            finally:
                self.workers.stop()

    def _run(
        self,
        watcher: Watcher,
        expected: Callable[[Candidate], float],
        timeout: float | None,
        new: bool,
    ) -> Ended:
        ending, limit = "", self.study.time_limit
        while True:
            interrupt.check()
            while not ending and len(self._running) < self.workers.jobs:
                following = self._next(new)
                if following is None:
                    break
                if isinstance(following, str):
                    ending = following
                    break
                seconds = expected(following.candidate)
                spent = time.monotonic() - self.started
                counted = (
                    seconds if self._statuses else 0.0
                )  # nothing has ended that would tell how far it is off
                if limit is not None and spent + counted > limit:
                    ending = "time"
                    break
                self._begin(following, timeout or max(TIMEOUT, TIMES * seconds), watcher)
            if not self._running:
                return self._ended(ending)
            while not (events := self.workers.wait(watcher.step, GLANCE)):
                interrupt.check()
            for event in events:
                self._take(event, watcher)

    def _ended(self, because: str) -> Ended:
        counts = self.book.counts()
        return Ended(because, counts["worth"], counts["failed"])

    # --- what comes next --------------------------------------------------------------------------------

    def _next(self, new: bool) -> _Next | str | None:
        """What to begin; None: nothing before something has ended; or why there is nothing more."""
        if failing(self._statuses):
            return "failures"
        trials = self.book.trials()
        for trial in trials:
            if trial.number not in self._running and self.book.due(trial):
                return _Next(self.book.candidate(trial), replica_of(trial), trial.number)
        if not new:
            return "trials"
        worth = sum(trial.state in WORTH or trial.state == TrialState.RUNNING for trial in own(trials))
        if worth < self.study.trials and not self._exhausted:
            visible = self._visible(len(trials))
            if not all(trial.state.is_finished() for trial in visible):
                return None
            proposed = self._propose(trials, visible, self._closing(worth))
            if proposed is not None:
                return proposed
            self._exhausted = True
        if any(not trial.state.is_finished() for trial in own(trials)):
            return None  # it may come to the front, or have to be made up for
        for trial, replica in fresh_seeds(trials, self.study.replicas):
            return _Next(self.space.decode(trial.params), replica)
        return "exhausted" if self._exhausted else "trials"

    def _visible(self, number: int) -> list[FrozenTrial]:
        """The trials whose outcomes a trial of this number may follow from.

        With J jobs, those are 0 to number - 2 J + 1: enough that no worker has to wait where trials take about
        equally long, and the same whichever trial happens to end first.
        """
        return self.book.trials()[: max(0, number - 2 * self.workers.jobs + 2)]

    def _closing(self, worth: int) -> bool:
        """See ``proxies.closing``."""
        if not self.study.proxies:
            return False
        known = [c for c in self.space.known if self.space.fits(c)] or [self.space.smallest]
        each = fmean(map(self._expected, known)) / self.workers.jobs
        return closing(self.study, worth, time.monotonic() - self.started, each)

    def _propose(
        self, trials: Sequence[FrozenTrial], visible: Sequence[FrozenTrial], closing: bool
    ) -> _Next | None:
        """A new configuration."""
        proposal = propose(
            self.space,
            self.study.sampler,
            seen=[trial for trial in visible if trial.state in WORTH],
            pending=[self.book.candidate(trial) for trial in trials[len(visible) :]],
            done=self.book.begun(),
            seed=derived_seed(self.study.seed, "proposal", len(trials)),
            objectives=len(self.study.objectives),
            study_seed=self.study.seed,
            first=self.study.first,
            closing=closing,
        )
        return None if proposal is None else _Next(proposal.candidate, system_attrs=proposal.system_attrs)

    # --- one trial --------------------------------------------------------------------------------------

    def _begin(self, following: _Next, timeout: float, watcher: Watcher) -> None:
        candidate, replica, number = following.candidate, following.replica, following.number
        if number is None:
            number = self.book.add(candidate, replica, following.system_attrs)
        self.book.begin(number)
        job = replace(
            self.job,
            fidelity=self.study.fidelities[candidate.proxy],
            seed=self.book.seed(candidate, replica),
            rungs={} if replica or candidate.proxy else self._bars(number, candidate),
            checkpoint=self.book.file("checkpoint", number),
        )
        task = Task(number, candidate.config, candidate.key, job, self.book.file("log", number), timeout)
        attempts = list(self.book.trials()[number].user_attrs.get("attempts", []))
        self._running[number] = Running(candidate, task, attempts)
        self.workers.begin(task)
        watcher.trial_starts(number, candidate, replica)

    def _bars(self, number: int, candidate: Candidate) -> dict[int, float]:
        """Scores below which a trial is stopped, by epoch."""
        if not self.study.rungs:
            return {}
        others = [
            Seen(t.user_attrs["counted_bytes"], {int(k): v for k, v in t.user_attrs["history"].items()})
            for t in own(self._visible(number))
            if t.state in WORTH and "history" in t.user_attrs
        ]
        return bars(self.study.rungs, candidate.counted_bytes, others, self._validation_images)

    @cached_property
    def _validation_images(self) -> int:
        return self.study.fidelity.val_size or len(load_data(self.study.config, self.job).validation)

    def _take(self, event: Done | Crashed, watcher: Watcher) -> None:
        """Run a trial again that crashed, or put its record in the book."""
        number, running = event.number, self._running[event.number]
        if isinstance(event, Done):
            record = event.record
        elif self._once_more(event, running):
            self.workers.begin(running.task)
            watcher.trial_crashed(number, event.reason)
            return
        else:
            record = record_of_crash(event, running)
        if running.candidate.proxy and record.status == "finished":
            record = replace(record, status="proxy")
        record = sound(replace(record, study=self._context(number, record, running)))
        self.book.end(number, record)
        self._statuses[number] = record.status
        del self._running[number]
        watcher.trial_ends(number, record)

    def _once_more(self, crash: Crashed, running: Running) -> bool:
        """Note that a trial crashed; returns whether it is run again."""
        running.attempts.append({"kind": crash.kind, "reason": crash.reason, "tail": crash.tail})
        self.book.note(crash.number, "attempts", running.attempts)
        alike = {"crash", "timeout"} if crash.kind in ("crash", "timeout") else {crash.kind}
        return sum(attempt["kind"] in alike for attempt in running.attempts) <= AGAIN[crash.kind]

    def _context(self, number: int, record: Record, running: Running) -> dict[str, Any]:
        """What a report needs to know of the study, so that it reads records only."""
        context: dict[str, Any] = {
            "name": self.study.name,
            "number": number,
            "replica": replica_of(self.book.trials()[number]),
            "budget": self.study.budget,
            "budget_bytes": self.study.budget_bytes,
            "counts": self.study.counts,
            "counted_bytes": running.candidate.counted_bytes,
            "full": self._full,
            **({"quantile": self.study.quantile} if self.study.quantile < 1 else {}),
        }
        if running.candidate.proxy:
            context["proxy"] = running.candidate.proxy
        if running.attempts:
            context["attempts"] = running.attempts
        if record.status == "out_of_memory":
            context["room_bytes"] = self.workers.room(running.task.config.device)
        return context

    @cached_property
    def _full(self) -> dict[str, Any]:
        full = self.study.config.with_method("full")
        return {**predict(full).summary(), "counted_bytes": counted_bytes(full, self.study.counts)}
