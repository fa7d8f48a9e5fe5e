"""The book of a study: an Optuna study and the records of its trials, kept in agreement.

Only one process at a time writes in it; see ``store.folder.alone``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.search.choices import Candidate, placed
from bsr_explorer.search.endings import why_not_again
from bsr_explorer.search.opening import check_space, open_database, writing
from bsr_explorer.search.proposals import derived_seed
from bsr_explorer.search.space import Space
from bsr_explorer.store.database import DATABASE, due, outcome, own, proxy_of, replica_of
from bsr_explorer.store.records import Record, read_records, write_record
from bsr_explorer.store.study import Study

WORTH = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that were trained as far as they were worth."""

INTERRUPTED = "interrupted before it finished"
"""Reason of trials that earlier versions failed when they were killed, to train them again as others."""


class Book:
    """All trials of a study, in a database and in records.

    Args:
        study: with nothing left open.
        folder: of the study, which exists.

    Attributes:
        optuna: the Optuna study.
        repairs: what a killed search had left, and what became of it, a line each.

    Raises:
        UserError: the database is none, or of another study.
    """

    def __init__(self, study: Study, folder: Path, space: Space) -> None:
        self.study, self.folder, self.space = study, folder, space
        self.optuna = open_database(study, folder)
        self._known: list[FrozenTrial] | None = (
            None  # read once after each change: a reading takes milliseconds
        )
        with self.writing():
            check_space(self.optuna, study, folder, space.distributions)
            self.repair()

    def writing(self) -> AbstractContextManager[None]:
        """See ``opening.writing``."""
        return writing(self.folder)

    # --- reading ----------------------------------------------------------------------------------------

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, or all, by number; not to be changed."""
        if self._known is None:
            self._known = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in self._known if not states or trial.state in states]

    def __len__(self) -> int:
        return len(self.trials())

    def counts(self) -> dict[str, int]:
        """Trials by what became of them: ``worth`` (trained as far as they were worth, ``stopped`` ones
        included, fresh seeds and proxies not), at a ``proxy``, ``failed``, and runs on ``fresh`` seeds that ended."""
        trials = self.trials()
        counted = own(trials)
        return {
            "worth": sum(trial.state in WORTH for trial in counted),
            "stopped": sum(trial.state == TrialState.PRUNED for trial in counted),
            "proxy": sum(trial.state in WORTH for trial in trials if proxy_of(trial)),
            "failed": sum(trial.state == TrialState.FAIL for trial in trials),
            "fresh": sum(trial.state.is_finished() for trial in trials if replica_of(trial)),
        }

    def points(self) -> list[tuple[float, float]]:
        """Accuracy in [0, 1] and bytes of the trials that finished, fresh seeds apart."""
        finished = (trial for trial in self.trials(TrialState.COMPLETE) if not replica_of(trial))
        return [(trial.values[0], trial.values[1]) for trial in finished]

    def due(self, trial: FrozenTrial) -> bool:
        """Whether a trial was begun and not ended, or asked for, or has lost its record."""
        return due(trial, self._recorded)

    def begun(self) -> set[str]:
        """``place`` of all that has a trial."""
        begun = {self.candidate(t).place for t in self.trials() if t.user_attrs.get("reason") != INTERRUPTED}
        return begun | {placed(record.key, record.study.get("proxy", 0)) for record in self._ahead.values()}

    def candidate(self, trial: FrozenTrial) -> Candidate:
        """What a trial is of."""
        return replace(self.space.decode(trial.params), proxy=proxy_of(trial))

    def file(self, kind: str, number: int) -> Path:
        """The ``checkpoint`` or the ``log`` of a trial."""
        ending = {"checkpoint": "pt", "log": "txt"}[kind]
        return self.folder.resolve() / f"{kind}s" / f"{number:04d}.{ending}"

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """The database is written, whole or not, and read again after it."""
        try:
            yield
        finally:
            self._known = None

    # --- writing ----------------------------------------------------------------------------------------

    def add(
        self,
        candidate: Candidate,
        replica: int = 0,
        system_attrs: Mapping[str, Any] | None = None,
        state: TrialState = TrialState.RUNNING,
    ) -> int:
        """Add a trial, whole, with all that its training follows from; returns its number."""
        number = self._add(candidate, replica, system_attrs or {}, state)
        self._adopt()
        return number

    def _add(
        self, candidate: Candidate, replica: int, system_attrs: Mapping[str, Any], state: TrialState
    ) -> int:
        number = len(self)
        self._clean(number)  # of a trial that the database has lost
        with self._changed():
            self.optuna.add_trial(
                create_trial(
                    state=state,
                    params=self.space.encode(candidate),
                    distributions=self.space.distributions,
                    system_attrs=dict(system_attrs),
                    user_attrs={
                        "key": candidate.key,
                        "method": str(candidate.config.method),
                        "counted_bytes": candidate.counted_bytes,
                        "train_flops": candidate.train_flops,
                        "replica": replica,
                        **({"proxy": candidate.proxy} if candidate.proxy else {}),
                        "seed": self.seed(candidate, replica),
                    },
                )
            )
        return number

    def seed(self, candidate: Candidate, replica: int) -> int:
        """Each experiment has its own, the same however the search came to it."""
        return derived_seed(self.study.seed, candidate.key, replica)

    def begin(self, number: int) -> None:
        """A trial that was asked for runs."""
        trial = self.trials()[number]
        if trial.state == TrialState.WAITING:
            with self._changed():
                self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)

    def note(self, number: int, key: str, value: Any) -> None:
        """Add to what is known of a running trial. (Optuna lets one that has ended be.)"""
        trial = self.trials()[number]
        if not trial.state.is_finished():
            with self._changed():
                self.optuna._storage.set_trial_user_attr(trial._trial_id, key, value)

    def end(self, number: int, record: Record) -> None:
        """Write a trial's record, tell the database, and remove what is needed no more."""
        write_record(self.folder, number, record)
        self._recorded.add(number)
        self._tell(number, record)
        self._clean(number)

    def _tell(self, number: int, record: Record) -> None:
        """Tell the database what a record says, if it does not know."""
        if self.trials()[number].state.is_finished():
            return
        if record.history_epochs:
            epochs = map(str, record.history_epochs)
            self.note(number, "history", dict(zip(epochs, record.scores, strict=True)))
        if record.reason:
            self.note(number, "reason", record.reason)
        state, values = outcome(record, len(self.study.objectives))
        with self._changed():
            self.optuna.tell(number, values, state)

    def _clean(self, number: int) -> None:
        """Remove a trial's checkpoint, whole or not, and its output if there was none."""
        checkpoint = self.file("checkpoint", number)
        for path in (checkpoint, *checkpoint.parent.glob(f".{checkpoint.name}.*.tmp")):
            path.unlink(missing_ok=True)
        log = self.file("log", number)
        if log.exists() and not log.stat().st_size:
            log.unlink()

    def retry(self, numbers: Sequence[int] | None, room: int) -> tuple[list[int], list[str]]:
        """Ask for trials again that failed, as new ones of the same seeds.

        Args:
            numbers: of the trials; None: of all that failed and have not been asked for again.
            room: bytes of memory that each trial can have now.

        Returns:
            The numbers of the new trials, and why others were not asked for, a line each.
        """
        records, trials = read_records(self.folder), self.trials()
        failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
        latest = {(self.candidate(trial).place, replica_of(trial)): trial.number for trial in trials}
        asked, refused = [], []
        for number in failed if numbers is None else numbers:
            if number not in failed:
                raise UserError(f"TRIAL: {number} is no trial that failed; those are {failed or 'none'}")
            trial, record = trials[number], records.get(number)
            later = latest[self.candidate(trial).place, replica_of(trial)]
            if later != number:
                why = f"trial {later} has taken its place" if numbers is not None else None
            else:
                why = why_not_again(record, room)
                if why is None:
                    candidate = self.candidate(trial)
                    asked.append(self.add(candidate, replica_of(trial), state=TrialState.WAITING))
            if why is not None:
                refused.append(f"trial {number}: {why}")
        return asked, refused

    # --- after a kill -----------------------------------------------------------------------------------

    def repair(self) -> None:
        """Settle what a killed search has left.

        Raises:
            UserError: a record that cannot be read, or is of something else.
        """
        self.repairs: list[str] = []
        self._known = None  # another process may have written
        for kind in ("records", "checkpoints"):
            for half_written in (self.folder / kind).glob(".*.tmp"):
                half_written.unlink()
        records, known = read_records(self.folder), self.trials()
        self._recorded = set(records)
        self._ahead = {number: record for number, record in records.items() if number >= len(known)}
        for trial in known:
            number, record = trial.number, records.get(trial.number)
            if record is not None and trial.user_attrs.get("key", record.key) != record.key:
                raise UserError(
                    f"--out: {self._place(number)} is not of trial {number} of {DATABASE}; move it away to "
                    "train the trial again"
                )
            if trial.state == TrialState.RUNNING and record is not None:
                self._tell(number, record)
                self.repairs.append(f"trial {number} had its record: told")
            elif trial.state == TrialState.RUNNING:
                self.repairs.append(f"trial {number} had not ended: it goes on")
            elif trial.state in WORTH and record is None:
                self.repairs.append(f"trial {number} has lost its record: it is trained again")
            if record is not None:
                self._clean(number)
        self._adopt()

    def _adopt(self) -> None:
        """Add trials that the database has lost from their records, as their numbers come up."""
        while (number := len(self)) in self._ahead:
            record = self._ahead.pop(number)
            replica = int(record.study.get("replica", 0))
            self._add(self._candidate(number, record), replica, {}, TrialState.RUNNING)
            self._tell(number, record)
            self.repairs.append(f"trial {number} was unknown to the database: added from its record")

    def _candidate(self, number: int, record: Record) -> Candidate:
        """What a record is of, if that is of this study."""
        with suppress(UserError, KeyError):  # a method that this space does not have
            config = Config.from_dict(record.config)
            key = config.key(self.space.geometry.depth)
            candidate = self.space.decode(self.space.encode(Candidate(config, key, 0, 0)))
            if candidate.key == key == record.key and record.study.get("name") == self.study.name:
                return replace(candidate, proxy=int(record.study.get("proxy", 0)))
        raise UserError(f"--out: {self._place(number)} is not of this study; move it away to go on")

    def _place(self, number: int) -> Path:
        return self.folder / "records" / f"{number:04d}.json"
