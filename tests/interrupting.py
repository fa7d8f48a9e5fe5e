"""Commands that are stopped with Ctrl-C at random moments, and go on, until each has come to its end.

``python -c "from tests.interrupting import main; main()" --interrupts 200`` prints a table, and exits with 1 where a
command ended otherwise than with 130, or came to another end than one that was never stopped. Each attempt is a
process forked from this one, which has loaded everything; both cores are kept busy beside it. (It is not run as a
module, which each process of a trial would load again.)
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import importlib
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch

from bsr_explorer import cli, interrupt
from bsr_explorer.cli.app import _register, app
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.prediction import geometry_of
from bsr_explorer.report import style
from bsr_explorer.search.executors import machine, processes
from bsr_explorer.search.space import default_space
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import read_records
from bsr_explorer.store.study import Study

CONFIG = Config("toy", 48, batch_size=4, method="last(k=1)")
FIDELITY = Fidelity(image_size=32, train_size=20, val_size=20, epochs=3)

COMMANDS: dict[str, list[str]] = {
    "train": ["train", "train.toml", "--out", "out", "--checkpoint-every", "0.05s"],
    "search": ["search", "study.toml", "--out", "out", "--device", "cpu", "--jobs", "0"],
    "compare": [
        *(
            "compare",
            "--model",
            "toy",
            "--methods",
            "full, linear, last(k=1)",
            "--seeds",
            "2",
            "--rounds",
            "2",
        ),
        *(
            "--image-size",
            "48",
            "--proxy-size",
            "32",
            "--batch-size",
            "4",
            "--train-size",
            "20",
            "--val-size",
            "20",
        ),
        *("--epochs", "2", "--weights", "random", "--device", "cpu", "--out", "out"),
    ],
    "search --jobs 1": ["search", "study.toml", "--out", "out", "--device", "cpu", "--jobs", "1"],
}
"""What is stopped; each in a folder of its own, on a model of no size."""


def files(folder: Path) -> None:
    """What the commands read."""
    folder.mkdir(parents=True)
    experiment = Experiment("toy", CONFIG, weights="random", fidelity=FIDELITY, seed=5)
    (folder / "train.toml").write_text(tomli_w.dumps(experiment.to_toml()))
    study = Study(
        name="stopped",
        config=CONFIG.with_method("full"),
        budget="1400KB",
        counts="peak",
        data="digits",
        weights="random",
        fidelity=FIDELITY,
        space=default_space(geometry_of(CONFIG)),
        trials=4,
        sampler="tpe",
        replicas=1,
    )
    (folder / "study.toml").write_text(tomli_w.dumps(study.to_toml()))


def end(folder: Path) -> dict[str, Any]:
    """Everything that has to be the same, and that nothing is left over."""
    out = folder / "out"
    weights = out / "model.safetensors"
    return {
        "records": sorted(
            (
                r.status,
                r.key,
                r.seed,
                r.study.get("number"),
                r.study.get("replica"),
                r.accuracy,
                r.losses,
                r.history,
            )
            for r in read_records(out).values()
        ),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None,
        "files": sorted(
            str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.parent.name != "logs"
        ),
    }


# --- one attempt ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended.

    Attributes:
        code: of the process.
        pressed: whether Ctrl-C was pressed before that. (The system takes a while to tear a process down.)
        said: on both streams.
    """

    code: int
    pressed: bool
    said: str
    seconds: float


def attempt(folder: Path, arguments: list[str], moment: float | None = None) -> Attempt:
    """Run a command in a process of its own, and press Ctrl-C for it and all processes that it started, as a terminal
    does, so many seconds after it has begun to listen."""
    log = folder / "said.txt"
    tells, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        _command(folder, arguments, log, told)
    os.close(told)
    os.read(tells, 1)
    began, pressed, ended = time.monotonic(), math.inf, False
    while not ended:
        left = 0.01 if moment is None else moment - (time.monotonic() - began)
        time.sleep(max(0.0, min(0.01, left)))
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if not ended and moment is not None and time.monotonic() - began >= moment:
            os.killpg(pid, signal.SIGINT)
            pressed, moment = time.monotonic(), None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    over = float(os.read(tells, 100) or math.inf)  # when the command was, if nothing killed it
    os.close(tells)
    return Attempt(code, pressed < over, log.read_text(), time.monotonic() - began)


def _command(folder: Path, arguments: list[str], log: Path, told: int) -> None:
    """In the process of an attempt: the command, as if it had just been started."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["BSR_EXPLORER_CACHE"] = str(folder / "cache")
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), stream)
        listen = interrupt.listen

        def listening() -> None:
            listen()
            os.write(told, b".")

        interrupt.listen = listening
        sys.argv = ["bsr-explore", *arguments]
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, repr(time.monotonic()).encode())
        os._exit(code)


# --- many -----------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What came of a command.

    Attributes:
        codes: exit codes of the attempts in which Ctrl-C was pressed.
        ends: of the folders that came to their end, whether it was that of a command that was never stopped.
        wrong: what was said or left that should not be.
    """

    seconds: float
    codes: Counter[int] = field(default_factory=Counter)
    ends: list[bool] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all is as it should be. (The system ends a process that has left Ctrl-C to it; a shell calls that
        130 too.)"""
        return set(self.codes) <= {interrupt.CODE, -signal.SIGINT} and all(self.ends) and not self.wrong


def stop(command: str, folder: Path, interrupts: int, seed: int) -> Row:
    """Stop a command at moments spread evenly over the time that it takes, in one folder until it has come to its end
    in spite of that, then in the next."""
    arguments, moments = COMMANDS[command], random.Random(f"{command} {seed}")
    files(folder / "whole")
    whole = attempt(folder / "whole", arguments)
    assert whole.code == 0, whole.said
    expected, row, place = end(folder / "whole"), Row(whole.seconds), 0
    while row.codes.total() < interrupts:
        here, place = folder / str(place), place + 1
        files(here)
        finished = False
        while not finished:
            over = row.codes.total() >= interrupts
            made = attempt(here, arguments, None if over else moments.uniform(0.0, whole.seconds))
            finished = made.code == 0 and not made.pressed
            if made.pressed:
                row.codes[made.code] += 1
            elif not finished:
                row.wrong.append(f"{made.code}: {made.said}")
                break
            if "Traceback" in made.said or (made.code == interrupt.CODE and cli.STOPPED not in made.said):
                row.wrong.append(made.said)
        else:
            row.ends.append(end(here) == expected)
        print(f"{command}: {row.codes.total()} of {interrupts}", file=sys.stderr)
    return row


@contextmanager
def busy() -> Iterator[None]:
    """Keep the cores busy, each with a process that ends with this one."""
    pids = []
    for _ in range(machine.cores()):
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with its parent
            while True:
                pass
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def load() -> None:
    """Load what the commands would, so that each attempt begins at once."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it is ignored
    _register([])
    app.registered_commands.clear()
    others = ("tests.toy", "sklearn.datasets", "matplotlib.pyplot", "botorch", "pandas")
    ours = (
        "trained.training",
        "compare.run",
        "search.plan",
        "search.coordinator",
        "cli.study_report",
        "report.comparison.write",
    )
    for name in (*others, *(f"bsr_explorer.{name}" for name in ours)):
        importlib.import_module(name)
    whole = processes.Processes
    processes.Processes = lambda jobs, more: whole(jobs, [*more, "tests.toy"])  # type: ignore[assignment,misc]
    for kind in ("pdf", "svg"):  # or most presses would fall into the drawing of figures
        style.UNDATED.pop(kind)
    gc.freeze()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interrupts", type=int, default=200, help="a command")
    parser.add_argument("--commands", nargs="+", default=["train", "search", "compare"], choices=COMMANDS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    load()
    print(f"{'command':16} seconds interrupts  {'exit codes':20} ended as if never stopped")
    good = True
    with tempfile.TemporaryDirectory() as folder, busy():
        for name in asked.commands:
            row = stop(name, Path(folder) / name, asked.interrupts, asked.seed)
            codes = ", ".join(f"{code}: {count}" for code, count in sorted(row.codes.items()))
            ends = f"{sum(row.ends)} of {len(row.ends)}"
            print(f"{name:16} {row.seconds:7.1f} {row.codes.total():10}  {codes:20} {ends}", flush=True)
            print(*row.wrong, sep="\n", end="\n" * bool(row.wrong), flush=True)
            good = good and row.good
    sys.exit(not good)
