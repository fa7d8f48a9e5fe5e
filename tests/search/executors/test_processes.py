"""Where trials run: what a process of a trial says and leaves, and that one that crashes harms no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.finetune.job import Job
from bsr_explorer.search.executors import processes as module
from bsr_explorer.search.executors.base import TAIL, Crashed, Done, Executor, Task
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.processes import Processes

CONFIG = Config(model="toy", image_size=48, batch_size=4, method="linear")
JOB = Job("digits", Fidelity(image_size=32, train_size=20, val_size=20, epochs=2), "random", seed=3)
IMPORTS = ("tests.toy", "sklearn.datasets")

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.thorough]  # real processes

Steps = list[tuple[int, int, int, float]]


def finish(workers: Executor, steps: Steps | None = None, seconds: float = 120.0) -> list[Done | Crashed]:
    """Wait until something has ended."""
    deadline = time.monotonic() + seconds
    said: Steps = [] if steps is None else steps
    while time.monotonic() < deadline:
        ended = workers.wait(lambda *step: said.append(step), 1.0)
        if ended:
            return ended
    pytest.fail("nothing has ended")


@pytest.fixture
def processes() -> Iterator[Callable[..., Processes]]:
    """Makes processes that are ended with the test."""
    made: list[Processes] = []

    def make(jobs: int = 1, imports: tuple[str, ...] = IMPORTS) -> Processes:
        made.append(Processes(jobs, imports))
        return made[-1]

    yield make
    for each in made:
        each.stop()


# --- what comes of a trial ------------------------------------------------------------------------------


def test_a_trial_is_the_same_wherever_it_runs(processes: Callable[..., Processes], tmp_path: Path) -> None:
    direct = attempt(CONFIG, "key", JOB, lambda *_: None)
    for workers in (Here(), processes()):
        steps: Steps = []
        workers.begin(Task(5, CONFIG, "key", JOB, tmp_path / "logs" / "5.txt"))
        (ended,) = finish(workers, steps)
        assert isinstance(ended, Done)
        assert ended.number == 5
        record = ended.record
        assert (record.status, record.accuracy, record.losses) == (
            "finished",
            direct.accuracy,
            direct.losses,
        )
        assert record.measured == direct.measured
        assert steps[-1][:3] == (5, 10, 10)
        assert [done for _, done, _, _ in steps] == sorted({done for _, done, _, _ in steps})


def test_trials_run_at_once(processes: Callable[..., Processes]) -> None:
    workers = processes(2)
    for number in (0, 1):
        workers.begin(Task(number, CONFIG, "key", JOB))
    assert workers.pid(0) != workers.pid(1)
    ended = finish(workers)
    while len(ended) < 2:
        ended += finish(workers)
    assert sorted(each.number for each in ended) == [0, 1]
    assert all(isinstance(each, Done) for each in ended)
    workers.begin(Task(2, CONFIG, "key", JOB))  # a place is free again
    assert [each.number for each in finish(workers)] == [2]


def test_nothing_ends_is_said_after_a_while(processes: Callable[..., Processes]) -> None:
    workers = processes()
    workers.begin(Task(0, CONFIG, "key", JOB))
    began = time.monotonic()
    assert workers.wait(lambda *_: None, 0.0) == []
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_are_refused(jobs: int) -> None:
    with pytest.raises(UserError, match=f"--jobs: {jobs} must be"):
        Processes(jobs)


# --- what ends the whole search -------------------------------------------------------------------------


def test_what_a_user_can_mend_is_raised(processes: Callable[..., Processes], tmp_path: Path) -> None:
    job = Job(str(tmp_path / "nothing"), JOB.fidelity, "random")
    for workers in (Here(), processes()):
        workers.begin(Task(0, CONFIG, "key", job))
        with pytest.raises(UserError, match="--data: "):
            finish(workers)


def test_a_disk_that_cannot_be_written_is_raised(processes: Callable[..., Processes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    workers = processes()
    workers.begin(Task(0, CONFIG, "key", JOB, tmp_path / "file" / "0.txt"))
    with pytest.raises(OSError, match="file"):
        finish(workers)


# --- crashes --------------------------------------------------------------------------------------------

BAD = "tests.crashing"
"""A module that makes the process of a trial end as its key says."""


@pytest.mark.parametrize(
    ("how", "reason", "tail"),
    [
        ("exit", "its process exited with code 3", "something went wrong"),
        ("segfault", "its process was killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("kill", "its process was killed by SIGKILL, as the system does when memory runs out", ""),
        ("c", "its process was killed by SIGABRT", "said by C"),
    ],
)
def test_a_crash_is_told_with_its_reason_and_its_last_words(
    processes: Callable[..., Processes], tmp_path: Path, how: str, reason: str, tail: str
) -> None:
    workers, log = processes(imports=(*IMPORTS, BAD)), tmp_path / "logs" / "0.txt"
    workers.begin(Task(0, CONFIG, f"crash by {how}", JOB, log))
    (ended,) = finish(workers)
    assert isinstance(ended, Crashed)
    assert (ended.number, ended.kind, ended.reason) == (0, "crash", reason)
    assert tail in ended.tail
    assert len(ended.tail) <= TAIL
    assert "Extension modules" not in ended.tail
    assert tail in log.read_text()
    workers.begin(Task(1, CONFIG, "key", JOB))
    assert isinstance(finish(workers)[0], Done)


def test_a_trial_that_is_killed_leaves_the_others(processes: Callable[..., Processes]) -> None:
    workers = processes(2)
    for number in (0, 1):
        workers.begin(Task(number, CONFIG, "key", JOB))
    os.kill(workers.pid(0), signal.SIGKILL)
    ended = {each.number: each for each in finish(workers)}
    while len(ended) < 2:
        ended |= {each.number: each for each in finish(workers)}
    assert isinstance(ended[0], Crashed)
    assert isinstance(ended[1], Done)


def test_a_trial_that_takes_too_long_is_ended(processes: Callable[..., Processes], tmp_path: Path) -> None:
    workers = processes(imports=(*IMPORTS, BAD))
    workers.begin(Task(0, CONFIG, "crash by sleep", JOB, tmp_path / "0.txt", seconds=2.0))
    pid = workers.pid(0)
    (ended,) = finish(workers)
    assert isinstance(ended, Crashed)
    assert (ended.kind, ended.reason, ended.tail) == ("timeout", "took longer than 2 s", "asleep")
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_that_are_stopped_are_gone(processes: Callable[..., Processes]) -> None:
    workers = processes(2)
    for number in (0, 1):
        workers.begin(Task(number, CONFIG, "key", JOB))
    pids = [workers.pid(number) for number in (0, 1)]
    workers.stop()
    assert not any(map(alive, pids))
    workers.stop()


def test_ctrl_c_reaches_no_trial(processes: Callable[..., Processes], tmp_path: Path) -> None:
    """The terminal sends it to all; the coordinator decides."""
    workers = processes()
    workers.begin(Task(0, CONFIG, "key", JOB))
    steps: Steps = []
    while not steps:
        assert not workers.wait(lambda *step: steps.append(step), 1.0)
        os.kill(workers.pid(0), signal.SIGINT)
    assert isinstance(finish(workers)[0], Done)


def test_ctrl_c_waits_until_a_process_has_started(processes: Callable[..., Processes]) -> None:
    workers = processes()
    workers.begin(Task(0, CONFIG, "key", JOB))  # so that they all are forked from one that is there
    finish(workers)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    context = workers._context
    start = context.Process.start
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):

            def pressed(process: Any) -> None:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)
                start(process)

            patch.setattr(context.Process, "start", pressed)
            workers.begin(Task(1, CONFIG, "key", JOB))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    workers.stop()
    workers.begin(Task(2, CONFIG, "key", JOB))
    assert isinstance(finish(workers)[0], Done)


STARTING = """
import os
os.setsid()
from bsr_explorer import interrupt
from bsr_explorer.search.executors.base import Task
from bsr_explorer.search.executors.processes import Processes
from tests.search.executors.test_processes import CONFIG, JOB
interrupt.listen()
workers = Processes(1, ["tests.toy", "tests.pressing_all"])
try:
    with interrupt.held():
        workers.begin(Task(0, CONFIG, "key", JOB))
        while True:
            workers.wait(lambda *step: None, 1.0)
            interrupt.check()
except KeyboardInterrupt:
    workers.stop()
    print("stopped")
"""
"""Pressed for all while the process that others are forked from loads its modules."""


def test_ctrl_c_of_a_terminal_reaches_only_the_coordinator() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", STARTING],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


# --- what they share ------------------------------------------------------------------------------------


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "cores", lambda: 8)
    assert [Processes(jobs).threads for jobs in (1, 2, 3, 8, 20)] == [None, 4, 2, 1, 1]
    assert [Processes(jobs).parallel("cpu") for jobs in (1, 2, 8, 20)] == [1, 2, 8, 8]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Processes(2).threads is None


def test_processes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Here().room("cpu")
    assert 10**8 < whole < 10**14
    assert Processes(4).room("cpu") == whole // 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(module, "memory_of", lambda device: {"cuda": 90, "cpu": 7}[device])
    assert [Processes(jobs).room("cuda") for jobs in (1, 2, 3, 4)] == [90, 90, 45, 45]
    assert Processes(3).parallel("cuda") == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trials_run_on_the_gpu(processes: Callable[..., Processes]) -> None:
    config = Config(model="toy", image_size=48, batch_size=4, method="linear", device="cuda")
    workers = processes(2)
    for number in (0, 1):
        workers.begin(Task(number, config, "key", JOB))
    ended = finish(workers)
    while len(ended) < 2:
        ended += finish(workers)
    for each in ended:
        assert isinstance(each, Done)
        assert each.record.status == "finished", each.record.reason
        assert each.record.provenance["device"] == "cuda"
