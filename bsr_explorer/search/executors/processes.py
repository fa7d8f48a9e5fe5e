"""Each trial in a process of its own on this machine, which may crash without harm to others."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING

import torch

from bsr_explorer import interrupt
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.search.executors.base import Crashed, Done, Progress, Task, say_into, tail, too_long
from bsr_explorer.search.executors.machine import cores, memory_of
from bsr_explorer.store.records import Record

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

SAYS_EVERY = 0.1
"""Seconds between two reports of a worker, so that a busy coordinator never keeps it waiting."""


@dataclass(frozen=True)
class _Worker:
    task: Task
    slot: int
    process: ForkServerProcess
    pipe: Connection
    began: float


class Processes:
    """Trains each trial in a process of its own on this machine.

    The processes are forked from one that has loaded torch and runs nothing. Where several run at once they
    share the cores (``OMP_NUM_THREADS`` says otherwise) and take turns with the GPUs.

    Args:
        jobs: processes at once.
        imports: modules to load before a trial is forked, such as one that registers models with timm.
    """

    def __init__(self, jobs: int, imports: Sequence[str] = ()) -> None:
        if jobs < 1:
            raise UserError(f"--jobs: {jobs} must be a whole number of at least 1")
        self.jobs, self.imports = jobs, tuple(imports)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *self.imports])
        # Two that share a core's threads wait for each other far longer than one thread works.
        shared = jobs > 1 and "OMP_NUM_THREADS" not in os.environ
        self.threads = max(1, cores() // jobs) if shared else None
        self._workers: dict[int, _Worker] = {}

    def begin(self, task: Task) -> None:
        """See ``Executor``."""
        taken = {worker.slot for worker in self._workers.values()}
        slot = next(slot for slot in range(self.jobs) if slot not in taken)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(task, theirs, slot, self.threads, self.imports), daemon=True
        )
        with _undisturbed():
            _start_server()
            process.start()
            theirs.close()  # or its end would never be seen
            self._workers[task.number] = _Worker(task, slot, process, ours, time.monotonic())

    def pid(self, number: int) -> int:
        """The process of a running trial."""
        pid = self._workers[number].process.pid
        assert pid is not None
        return pid

    def wait(self, progress: Progress, seconds: float) -> list[Done | Crashed]:
        """See ``Executor``."""
        now = time.monotonic()
        ends = [w.began + w.task.seconds - now for w in self._workers.values() if w.task.seconds is not None]
        wait([worker.pipe for worker in self._workers.values()], max(0.0, min([seconds, *ends])))
        events = [self._look(worker, progress) for worker in list(self._workers.values())]
        return [event for event in events if event is not None]

    def _look(self, worker: _Worker, progress: Progress) -> Done | Crashed | None:
        """What a worker has said, and whether it has ended."""
        number = worker.task.number
        try:
            while worker.pipe.poll():
                said = worker.pipe.recv()
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, Record):
                    self._end(worker)
                    return Done(number, said)
                progress(number, *said)
        except (EOFError, ConnectionResetError):
            self._end(worker)
            return Crashed(number, "crash", _how(worker.process.exitcode), tail(worker.task.log))
        limit = worker.task.seconds
        if limit is not None and time.monotonic() - worker.began > limit:
            worker.process.kill()
            self._end(worker)
            return Crashed(number, "timeout", too_long(limit), tail(worker.task.log))
        return None

    def _end(self, worker: _Worker) -> None:
        """Wait for a process that ends by itself, but not for ever: it may hang on its way out."""
        worker.process.join(10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()
        del self._workers[worker.task.number]

    def stop(self) -> None:
        """See ``Executor``."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in list(self._workers.values()):
            self._end(worker)

    def parallel(self, device: str) -> int:
        """See ``Executor``."""
        return min(self.jobs, torch.cuda.device_count() if device == "cuda" else cores())

    def room(self, device: str) -> int:
        """See ``Executor``."""
        devices = torch.cuda.device_count() if device == "cuda" else 1
        return memory_of(device) // -(-self.jobs // devices)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay Ctrl-C: it would kill the fork server while a request to it is running."""
    pressed: list[FrameType | None] = []
    if interrupt.listening():
        with interrupt.held():
            yield
        return
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(signal.SIGINT, pressed[0])


def _start_server() -> None:
    """Start the process that others are forked from, if there is none. Ctrl-C in a terminal reaches all processes:
    neither that one hears it, while it loads its modules, nor any that is forked from it."""
    resource_tracker.ensure_running()  # which unblocks the signal when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int | None) -> str:
    """How a process ended that was to say more."""
    if code is None or code >= 0:
        return f"its process exited with code {code}"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


# --- in the process of a trial --------------------------------------------------------------------------


def _work(task: Task, pipe: Connection, slot: int, threads: int | None, imports: Sequence[str]) -> None:
    """Train, and say how it went."""
    gc.freeze()  # what was loaded before is no garbage, and each measured step would look
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the coordinator, which decides
    Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        if task.log is not None:
            say_into(task.log)
        for module in imports:
            importlib.import_module(module)
        if threads is not None:
            torch.set_num_threads(threads)
        if task.config.device == "cuda" and torch.cuda.is_available():
            torch.cuda.set_device(slot % torch.cuda.device_count())
        pipe.send(attempt(task.config, task.key, task.job, _Says(pipe)))
    except (UserError, OSError) as error:
        pipe.send(error)


class _Says:
    """Progress, now and then."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.last = pipe, 0.0

    def __call__(self, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if done == total or now - self.last > SAYS_EVERY:
            self.last = now
            self.pipe.send((done, total, loss))


def _end_with(pipe: Connection) -> None:
    """End this process when the other end of its pipe is gone: nobody is left to take what it makes."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
