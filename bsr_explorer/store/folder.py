"""The folder that a command is given: what it holds, whether it can be written, and by one process at a time."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bsr_explorer.errors import UserError, unwritable
from bsr_explorer.store.comparison_folder import FILE as COMPARISON
from bsr_explorer.store.study import FILE as STUDY
from bsr_explorer.store.study import Study

TRAINING = "train.toml"
"""What the folder of a training has beside its record."""


def read_study(folder: Path) -> Study:
    """The study of a folder, as it was set up.

    Raises:
        UserError: it is none of a study's; it says of what it is.
    """
    if not (folder / STUDY).exists():
        raise no_study(folder, f"{folder} is not the folder of a study (it has no {STUDY})")
    return Study.from_toml(folder / STUDY)


def no_study(folder: Path, otherwise: str) -> UserError:
    """What to say of a folder that is not a study's: by what it is instead, where that is known."""
    name = shlex.quote(str(folder))
    if (folder / COMPARISON).exists():
        return UserError(
            f"STUDY: {folder} is the folder of a comparison, not of a study; use `bsr-explore report {name}` for all "
            f"of it, or `bsr-explore show {name} RUN` for one of its runs"
        )
    if (folder / TRAINING).exists():
        return UserError(
            f"STUDY: {folder} is the folder of a training, not of a study; use `bsr-explore train "
            f"{shlex.quote(str(folder / TRAINING))}` to train it again, or give the study's own folder"
        )
    return UserError(f"STUDY: {otherwise}")


def check_writable(folder: Path, flag: str = "--out", instead: str = "choose another --out") -> None:
    """Refuse an output folder that cannot be made or written, without making it.

    Args:
        flag: what named the folder.
        instead: what to do about it.

    Raises:
        UserError: with the part of the path that is in the way.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{flag}: {folder} cannot be a folder: {existing} is a file; {instead}")
    if os.access(existing, os.W_OK | os.X_OK):
        return
    if _read_only(existing):
        raise UserError(f"{flag}: {folder} is on a read-only file system; {instead}")
    raise UserError(f"{flag}: {folder} cannot be written (no permission for {existing}); {instead}")


def _read_only(path: Path) -> bool:
    """Whether a path is on a file system that nobody can write."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def check_movable(folder: Path) -> None:
    """Refuse to move a folder aside where that cannot be.

    Raises:
        UserError: this process is at work below it, or the folder that it is in cannot be written.
    """
    here, whole = Path.cwd(), folder.resolve()
    if whole == here or whole in here.parents:
        raise UserError(f"--fresh: {folder} is where you are, and cannot be moved aside; go elsewhere first")
    check_writable(folder.absolute().parent, "--fresh", "give a new folder with --out instead")


def aside(folder: Path) -> Path:
    """Where a folder is moved to when another is to take its place: the first of ``.1``, ``.2``, … that is free."""
    return next(
        place
        for number in itertools.count(1)
        if not os.path.lexists(place := folder.with_name(f"{folder.name}.{number}"))
    )


def move_aside(folder: Path, lock: str, work: str) -> Path:
    """Move a folder out of the way, with all that is in it; returns where it is now.

    Args:
        lock, work: see ``alone``: never while a process is at work there.

    Raises:
        UserError: as ``check_movable``, or another process is at work there.
    """
    check_movable(folder)
    place = aside(folder)
    try:
        with alone(folder, lock, work):
            folder.rename(place)
    except OSError as error:
        raise UserError(
            f"--fresh: {unwritable(error, folder)}; give a new folder with --out instead"
        ) from None
    return place


def check_free(folder: Path, lock: str, work: str) -> None:
    """Refuse a folder in which another process is at work; see ``alone``.

    Raises:
        UserError: it is.
    """
    if at_work(folder, lock):
        raise UserError(_busy(folder, work))


def _busy(folder: Path, work: str) -> str:
    return f"--out: another {work} is at work in {folder}; wait for it, or give another --out"


@contextmanager
def alone(folder: Path, lock: str, work: str) -> Iterator[None]:
    """Hold a folder's lock, which the system lets go of however a process ends.

    Args:
        lock: name of the lock's file.
        work: what is done in the folder, for the message: ``search``, ``comparison``.

    Raises:
        UserError: another process holds it.
    """
    held = FileLock(folder / lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(_busy(folder, work)) from None
    try:
        yield
    finally:
        held.release()


def at_work(folder: Path, lock: str) -> bool:
    """Whether a process holds a folder's lock."""
    if not (folder / lock).exists():
        return False
    try:
        with FileLock(folder / lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # a folder that cannot be written: nobody can be at work in it
