"""The folder that a command writes into: whether it can be, and by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bsr_explorer.errors import UserError


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, without making it.

    Raises:
        UserError: with the part of the path that is in the way.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"--out: {folder} cannot be a folder: {existing} is a file; choose another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"--out: {folder} cannot be written (no permission for {existing}); choose another --out"
        )


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
        raise UserError(
            f"--out: another {work} is at work in {folder}; wait for it, or give another --out"
        ) from None
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
