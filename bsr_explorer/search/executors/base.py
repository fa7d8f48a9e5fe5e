"""What runs trials, and what it is given and answers: every executor behind one interface."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bsr_explorer.config import Config
from bsr_explorer.finetune.job import Job
from bsr_explorer.store.records import Record

TAIL = 2000
"""Characters of a crashed trial's output that are kept with its record."""

Progress = Callable[[int, int, int, float], None]
"""Called with (trial, steps done, steps in all, loss)."""


@dataclass(frozen=True)
class Task:
    """One training to be done.

    Attributes:
        number: of the trial.
        key: of the configuration; see ``Config.key``.
        log: file that the trial's output is added to, where it has a process of its own.
        seconds: after which it is ended, or None.
    """

    number: int
    config: Config
    key: str
    job: Job
    log: Path | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Done:
    """A trial has its record."""

    number: int
    record: Record


@dataclass(frozen=True)
class Crashed:
    """A trial ended without a record.

    Attributes:
        kind: ``crash``; ``timeout``; ``lost`` with its machine, which is no fault of the trial; or
            ``out_of_memory``.
        tail: the end of its output.
    """

    number: int
    kind: Literal["crash", "timeout", "lost", "out_of_memory"]
    reason: str
    tail: str = ""


class Executor(Protocol):
    """Runs trials, ``jobs`` at once, with so many ``threads`` each (None: torch's own choice)."""

    jobs: int
    threads: int | None

    def begin(self, task: Task) -> None:
        """Start a training; fewer than ``jobs`` may run."""

    def wait(self, progress: Progress, seconds: float) -> list[Done | Crashed]:
        """What ended, as soon as something has, or nothing after some seconds.

        Raises:
            UserError, OSError: what ends the whole search, such as missing data or a full disk.
        """
        ...

    def stop(self) -> None:
        """End everything that runs, at once."""

    def parallel(self, device: str) -> int:
        """How many trials run on this kind of device without slowing each other down."""
        ...

    def room(self, device: str) -> int:
        """Bytes of memory of the device for each trial, if they share it evenly."""
        ...


def too_long(seconds: float) -> str:
    """The reason of a trial that was ended after so long."""
    return f"took longer than {seconds:.0f} s"


def tail(log: Path | None) -> str:
    """The end of a trial's output."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()
    # Python ends its own account of a crash with the names of hundreds of modules.
    kept = [line for line in lines if not line.startswith("Extension modules: ")]
    return "\n".join(kept).strip()[-TAIL:]


def say_into(log: Path) -> None:
    """Whatever this process prints, C code and crashes included, goes to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("a", buffering=1, errors="replace")
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    sys.stdout = sys.stderr = file
    faulthandler.enable()
