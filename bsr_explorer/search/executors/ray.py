"""Trials on a Ray cluster. Ray decides which node has room for a trial."""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bsr_explorer.errors import UserError, require
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.prediction import predict
from bsr_explorer.search.executors.base import (
    TAIL,
    Crashed,
    Done,
    Progress,
    Task,
    say_into,
    tail,
    too_long,
)
from bsr_explorer.store.records import Record
from bsr_explorer.units import format_bytes

PROCESS = 800 * 10**6
"""Bytes that a process takes which has loaded torch and trains nothing."""

PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""


class Ray:
    """Runs each trial as a task of Ray, on any node with the cores, the GPU and the memory for it.

    The nodes need this package, and the data at the same place. What a trial leaves for its resumption
    (checkpoints, output) is kept where nodes share the study's folder.

    Args:
        address: of a cluster, such as ``auto`` or ``ray://head:10001``; ``local`` starts one on this machine.
        device: ``cuda`` for a GPU a trial.
        jobs: trials at once; by default as many as there are GPUs, or nodes.
        imports: modules that each trial loads first, such as one that registers models with timm.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """

    def __init__(
        self, address: str, device: str = "cpu", jobs: int | None = None, imports: Sequence[str] = ()
    ) -> None:
        require("ray", "--cluster:", "cluster")
        import ray

        self._ray, self.device, self.imports = ray, device, tuple(imports)
        own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            _reach(address)
            ray.init(address, log_to_driver=False, logging_level="error", ignore_reinit_error=True, **own)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--cluster: no Ray cluster answers at {address!r} ({_line(error)}); give the address of one, "
                "or local"
            ) from None
        nodes = self._nodes()
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if device == "cuda" and not gpus:
            raise UserError("--cluster: no node of the cluster has a GPU; add one, or give --device cpu")
        self.jobs = jobs or (gpus if device == "cuda" else len(nodes))
        share = int(sum(node.get("CPU", 0) for node in nodes)) // self.jobs
        self.threads: int | None = max(1, min(share, int(max(node.get("CPU", 0) for node in nodes))))
        self._work = ray.remote(max_calls=1, max_retries=0)(_work)  # the coordinator knows what to retry
        self._running: dict[Any, tuple[Task, float]] = {}

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is there."""
        return [
            node["Resources"] for node in self._ray.nodes() if node["Alive"] and "CPU" in node["Resources"]
        ]

    def begin(self, task: Task) -> None:
        """See ``Executor``."""
        needs: dict[str, Any] = {"num_cpus": self.threads}
        if self.device == "cuda":
            needs["num_gpus"] = 1
        else:
            needs["memory"] = PROCESS + predict(task.job.fidelity.at(task.config)).peak_bytes
            if needs["memory"] > self.room("cpu"):
                raise UserError(
                    f"--cluster: trial {task.number} needs {format_bytes(needs['memory'])}, more than any node has; "
                    "add a node, or lower --budget or --image-size"
                )
        work = self._work.options(**needs)
        ref = work.remote(task, self.threads, self.imports, str(Path.cwd()))
        self._running[ref] = task, time.monotonic()

    def wait(self, progress: Progress, seconds: float) -> list[Done | Crashed]:
        """See ``Executor``. Ray tells no progress, and a trial's time runs from when it was asked for."""
        ready, others = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        ended = [self._end(ref) for ref in ready]
        for ref in others:
            task, began = self._running[ref]
            if task.seconds is not None and time.monotonic() - began > task.seconds:
                self._ray.cancel(ref, force=True)
                del self._running[ref]
                ended.append(Crashed(task.number, "timeout", too_long(task.seconds), tail(task.log)))
        return ended

    def _end(self, ref: Any) -> Done | Crashed:
        from ray import exceptions

        task, _ = self._running.pop(ref)
        try:
            answer = self._ray.get(ref)
        except exceptions.OutOfMemoryError as error:
            return Crashed(task.number, "out_of_memory", _line(error), tail(task.log))
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError) as error:
            return Crashed(task.number, "lost", f"its node was lost: {_line(error)}", tail(task.log))
        except exceptions.RayError as error:
            return Crashed(task.number, "crash", _line(error), tail(task.log) or str(error)[-TAIL:])
        if isinstance(answer, Exception):
            raise answer
        return Done(task.number, Record.from_dict(answer))

    def stop(self) -> None:
        """See ``Executor``."""
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        self._running.clear()

    def parallel(self, device: str) -> int:
        """See ``Executor``."""
        return self.jobs

    def room(self, device: str) -> int:
        """See ``Executor``."""
        return int(max(node.get("memory", 0) for node in self._nodes()))


def _work(task: Task, threads: int, imports: Sequence[str], folder: str) -> dict[str, Any] | Exception:
    """Train, in a process of a node; what ends the whole search is returned, or Ray would wrap it."""
    try:
        if Path(folder).is_dir():
            os.chdir(folder)  # so that paths mean what they mean to the coordinator
        if task.log is not None and task.log.parents[1].is_dir():
            say_into(task.log)
        job = task.job
        if job.checkpoint is not None and not job.checkpoint.parents[1].is_dir():
            job = replace(job, checkpoint=None)
        for module in imports:
            importlib.import_module(module)
        torch.set_num_threads(threads)
        return attempt(task.config, task.key, job, lambda done, total, loss: None).to_dict()
    except (UserError, OSError) as error:
        return error


def _reach(address: str) -> None:
    """Knock at a cluster's address, where Ray itself would wait for minutes.

    Raises:
        OSError, ValueError: nobody answers, or it is no address.
    """
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
