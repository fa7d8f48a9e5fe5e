"""Searches that are killed, each a process forked from this one, which loads torch once: see test_search.py.

``python -c "from tests.search.killing import main; main()" FOLDER KILLS|processes`` prints what came of
it as JSON. (It is not run as a module, which each process of a trial would load again.)
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from optuna.storages import RDBStorage

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search import book as book_module
from bsr_explorer.search.book import Book
from bsr_explorer.search.coordinator import Search
from bsr_explorer.search.executors.base import Crashed, Done, Executor, Progress, Task
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.processes import Processes
from bsr_explorer.search.space import Candidate, Space, default_space
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.reopened import open_folder
from bsr_explorer.store.study import Study
from bsr_explorer.train.checkpoint import Checkpoint

importlib.import_module("tests.toy")
importlib.import_module("sklearn.datasets")
torch.set_num_threads(1)

IMPORTS = ("tests.toy", "sklearn.datasets")


def die() -> None:
    """No Python code runs after this."""
    os.kill(os.getpid(), signal.SIGKILL)


class Watch:
    """Says nothing; dies, or kills the process of the trial, during a trial."""

    def __init__(self, die_at: int | None = None, kill_at: int | None = None) -> None:
        self.die_at, self.kill_at = die_at, kill_at
        self.workers: Any = None

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        """Say nothing."""

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        """Perhaps that was the last."""
        if number == self.die_at:
            die()
        if number == self.kill_at:
            self.kill_at = None
            os.kill(self.workers.pid(number), signal.SIGKILL)

    def trial_crashed(self, number: int, reason: str) -> None:
        """Say nothing."""

    def trial_ends(self, number: int, record: Record) -> None:
        """Say nothing."""


class InAnyOrder(Here):
    """Trains in this process as many that are begun at once, and ends them in an order of its own."""

    def __init__(self, jobs: int, seed: int) -> None:
        super().__init__()
        self.jobs, self.order = jobs, random.Random(seed)
        self.tasks: list[Task] = []

    def begin(self, task: Task) -> None:
        """See ``Executor``."""
        self.tasks.append(task)

    def wait(self, progress: Progress, seconds: float) -> list[Done | Crashed]:
        """See ``Executor``."""
        super().begin(self.tasks.pop(self.order.randrange(len(self.tasks))))
        return super().wait(progress, seconds)


def study() -> Study:
    """Trials of three epochs, with a rung, and a front that is trained again on a fresh seed."""
    config = Config(model="toy", image_size=48, batch_size=4)
    return Study(
        name="killed",
        config=config,
        budget="1400KB",
        counts="peak",
        data="digits",
        weights="random",
        fidelity=Fidelity(image_size=32, train_size=20, val_size=20, epochs=3),
        space=default_space(geometry_of(config)),
        trials=8,
        sampler="tpe",
        rungs=(1,),
        replicas=1,
    )


def search(folder: Path, watch: Watch, workers: Executor) -> None:
    """Train until the study is whole."""
    watch.workers = workers
    opened = open_folder(study(), folder, "search")
    job = Job(data=opened.data, fidelity=opened.fidelity, weights=opened.weights)
    Search(opened, folder, Space(opened), job, workers).run(watch)


def in_child(work: Callable[[], None], seconds: float | None = None) -> int:
    """Work in a process of its own, killed after some seconds; returns how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def whole(folder: Path) -> dict[str, Any]:
    """Everything that has to be the same, and that nothing is left over."""
    opened = open_folder(study(), folder, "search")
    keeper = Book(opened, folder, Space(opened))
    records = read_records(folder)
    return {
        "trials": [
            (t.number, t.state.name, t.user_attrs["key"], t.values, t.user_attrs.get("history"))
            for t in keeper.trials()
        ],
        "records": [
            (number, r.status, r.key, r.seed, r.accuracy, r.losses, r.study["replica"], r.measured)
            for number, r in records.items()
        ],
        "repairs": keeper.repairs,
        "left": sorted(p.name for p in folder.rglob("*") if p.suffix in (".tmp", ".pt")),
    }


# --- where it dies --------------------------------------------------------------------------------------


def dying_after(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Let a function be the last that runs, when its arguments say so."""
    original = getattr(owner, name)

    def last(*arguments: Any, **more: Any) -> Any:
        result = original(*arguments, **more)
        if when(*arguments):
            die()
        return result

    setattr(owner, name, last)


def dying_before(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Let nothing run from this function on, when its arguments say so."""
    original = getattr(owner, name)

    def never(*arguments: Any, **more: Any) -> Any:
        if when(*arguments):
            die()
        return original(*arguments, **more)

    setattr(owner, name, never)


POINTS: dict[str, Callable[[int], None]] = {
    "during add": lambda n: dying_before(
        RDBStorage, "_get_prepared_new_trial", lambda self, *_: self.get_n_trials(1) == n
    ),
    "after add": lambda n: dying_after(Book, "add", lambda self, *_: len(self) == n + 1),
    "after a checkpoint": lambda n: dying_after(
        Checkpoint, "save", lambda self, *_: self.path.stem == f"{n:04d}"
    ),
    "during the record": lambda n: dying_before(
        book_module, "write_record", lambda folder, number, _: number == n and torn(folder, number)
    ),
    "after the record": lambda n: dying_after(
        book_module, "write_record", lambda folder, number, _: number == n
    ),
    "after what is told beside": lambda n: dying_after(Book, "note", lambda self, number, *_: number == n),
    "during tell": lambda n: dying_after(
        RDBStorage,
        "_set_trial_value_without_commit",
        lambda self, session, trial, *_: trial.number == n,
    ),
    "after tell": lambda n: dying_before(
        Book,
        "_clean",
        lambda self, number: self.trials()[n:] and number == n and n in read_records(self.folder),
    ),
}
"""Where a search dies, at a trial of this number."""


def torn(folder: Path, number: int) -> bool:
    """Leave what a record that was being written leaves behind."""
    (folder / "records" / f".{number:04d}.json.abc.tmp").write_text('{"status": "fin')
    return True


def at_points(folder: Path) -> dict[str, Any]:
    """Die once at each point, and during training, all in one study."""
    codes = {}
    for number, (name, arm) in enumerate(POINTS.items()):

        def work(number: int = number, arm: Callable[[int], None] = arm) -> None:
            arm(number)
            search(folder, Watch(), Here())

        codes[name] = in_child(work)
    codes["during training"] = in_child(lambda: search(folder, Watch(die_at=len(POINTS)), Here()))
    codes["at last"] = in_child(lambda: search(folder, Watch(), Here()))
    return {"codes": codes, **whole(folder)}


def at_moments(folder: Path, kills: int) -> dict[str, Any]:
    """Die at random moments, as often as it takes; a study that ends before is begun anew."""
    moments, killed, studies = random.Random(0), 0, []
    while killed < kills:
        here = folder / str(len(studies))
        while killed < kills:
            code = in_child(lambda here=here: search(here, Watch(), Here()), moments.uniform(0.0, 1.5))  # type: ignore[misc]
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            killed += 1
        assert in_child(lambda here=here: search(here, Watch(), Here())) == 0  # type: ignore[misc]
        studies.append(whole(here))
    return {"killed": killed, "studies": studies}


def with_processes(folder: Path) -> dict[str, Any]:
    """Trials in two processes: one of them dies, then the coordinator."""
    codes = [
        in_child(lambda: search(folder, Watch(die_at=5, kill_at=1), Processes(2, IMPORTS))),
        in_child(lambda: search(folder, Watch(), Processes(2, IMPORTS))),
    ]
    return {"codes": codes, **whole(folder)}


def main() -> None:
    """See above."""
    gc.freeze()
    folder, what = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True)
    workers = InAnyOrder(2, 0) if what == "processes" else Here()
    assert in_child(lambda: search(folder / "whole", Watch(), workers)) == 0
    answer: dict[str, Any] = {"whole": whole(folder / "whole")}
    if what == "processes":
        answer |= with_processes(folder / "killed")
    else:
        answer |= {"points": at_points(folder / "points"), "moments": at_moments(folder, int(what))}
    print(json.dumps(answer))
    gc.unfreeze()
