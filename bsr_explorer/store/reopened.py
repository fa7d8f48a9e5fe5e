"""A study's folder taken up again: whether it is the same study, and whether anything of it is left to train."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.store.comparison_folder import FILE as COMPARISON
from bsr_explorer.store.database import DATABASE, due, fresh_seeds, look, told
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import FILE, LOCK, Study
from bsr_explorer.units import plural


def open_folder(study: Study, folder: Path, command: str) -> Study:
    """Make or reopen a study's folder; returns the study, completed by what the folder has decided.

    A study of another space gives way if no trial of it has ended: it is moved into ``before-1``, ….

    Raises:
        UserError: the folder cannot be written, or holds a study of another space (with the differences).
    """
    try:
        if (folder / FILE).exists():
            stored = Study.from_toml(folder / FILE)
            same = study.completed_by(stored)
            if not (differences := stored.differences(same)):
                return replace(same, name=stored.name)
            if _ended(folder):
                refuse(folder, differences)
            _make_room(folder)
        folder.mkdir(parents=True, exist_ok=True)
        study.write(folder, command)
    except OSError as error:
        raise UserError(f"--out: {unwritable(error, folder)}; choose another folder") from None
    return study


def stored_study(study: Study, folder: Path, open: Collection[str] = ()) -> Study | None:
    """The study of an existing folder, if it is the same as ``study``; None where there is none that binds: what was
    planned follows from the data, which may have changed before anything was trained.

    Args:
        open: which of ``trials`` and ``replicas`` are as they are stored.

    Raises:
        UserError: it is another study, with the differences.
    """
    if (folder / COMPARISON).exists() and not (folder / FILE).exists():
        raise UserError(
            f"--out: {folder} is the folder of a comparison, not of a study; give another --out, or use "
            f"`bsr-explore report {shlex.quote(str(folder))}` for what was compared"
        )
    trained = any(folder.glob("records/*.json")) or any(folder.glob("checkpoints/*.pt"))
    if not trained or not (folder / FILE).exists():
        return None
    stored = Study.from_toml(folder / FILE)
    same = study.completed_by(stored)
    differences = stored.differences(same)
    if differences and not _ended(folder):
        return None
    refuse(folder, differences)
    return replace(same, name=stored.name, **{key: getattr(stored, key) for key in open})


def _ended(folder: Path) -> bool:
    """Whether a trial has come to a result, be it a bad one."""
    return any(record.status not in ("failed", "out_of_memory") for record in read_records(folder).values())


def _make_room(folder: Path) -> None:
    """Make room for another study in the same folder."""
    with alone(folder, LOCK, "search"):
        aside = next(path for n in itertools.count(1) if not (path := folder / f"before-{n}").exists())
        aside.mkdir()
        for name in (FILE, DATABASE, "records", "checkpoints", "logs"):
            if (folder / name).exists():
                (folder / name).rename(aside / name)


def refuse(folder: Path, differences: list[str]) -> None:
    """Refuse to go on with a study that differs.

    Raises:
        UserError: there are differences.
    """
    if differences:
        raise UserError(
            f"--out: {folder} holds a study of another space ({'; '.join(differences)}); "
            "give the same settings to go on, or another --out"
        )


@dataclass(frozen=True)
class Finished:
    """A study of which nothing is left to train.

    Attributes:
        trials: that were trained as far as they were worth, fresh seeds apart.
        seeds: runs on fresh seeds.
        time: when the last of them ended, ISO 8601; empty where no record says so.
        commits: what they were made by, each once: commits, or the version where there is none.
        machines: where they were made, each once.
        exhausted: whether these are fewer trials than were asked for, for no other configuration fits the budget.
    """

    trials: int
    seeds: int
    time: str
    commits: list[str]
    machines: list[str]
    exhausted: bool = False

    def said(self) -> str:
        """In words: how much, when, by what and where."""
        seeds = f" and {plural(self.seeds, 'run')} on fresh seeds" if self.seeds else ""
        parts = [f"{plural(self.trials, 'trial')}{seeds}"]
        if self.time:
            parts.append(
                f"the last at {datetime.fromisoformat(self.time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            )
        for word, names in (("by", self.commits), ("on", self.machines)):
            if names:
                parts.append(f"{word} {' and '.join(names)}")
        return ", ".join(parts)


def finished(study: Study, folder: Path, most: int | None = None) -> Finished | None:
    """What a study came to, if the very search that is asked for has nothing left to train; else None.

    Args:
        study: what is asked for: its trials and replicas may be more than were asked for before.
        most: configurations within the budget, where they were counted: no search has more trials.

    Raises:
        UserError: a record or a database that cannot be read.
    """
    records = read_records(folder)
    worth = [record for record in records.values() if record.status in ("finished", "stopped")]
    seeds = [record for record in worth if record.study.get("replica", 0)]
    trials = len(worth) - len(seeds)
    if trials < (study.trials if most is None else min(study.trials, most)):
        return None
    known = look(folder) or told(records, len(study.objectives))
    if fresh_seeds(known, study.replicas) or any(due(trial, records) for trial in known):
        return None
    return Finished(
        trials=trials,
        seeds=len(seeds),
        time=max((record.provenance.get("time") or "" for record in worth), default=""),
        commits=_each(_commit(record.provenance) for record in worth),
        machines=_each(_machine(record.provenance) for record in worth),
        exhausted=trials < study.trials,
    )


def _each(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]


def _commit(made: dict[str, Any]) -> str:
    """The commit of a run, or the version of a package that was installed without one."""
    if commit := made.get("commit"):
        return f"commit {commit}"
    return f"version {made['bsr_explorer']}" if "bsr_explorer" in made else ""


def _machine(made: dict[str, Any]) -> str:
    """The machine of a run, as far as records tell machines apart."""
    cpus = made.get("cpus")
    processor = made.get("processor") or made.get("platform") or ""
    return f"{processor} ({plural(cpus, 'CPU')})" if processor and cpus else processor
