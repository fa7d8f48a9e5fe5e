"""Trials on Ray: on a cluster of two nodes that these tests start, of which one is lost in the middle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import predict
from bsr_explorer.search.coordinator import Search
from bsr_explorer.search.executors import ray as module
from bsr_explorer.search.executors.base import Crashed, Done, Task
from bsr_explorer.search.executors.ray import Ray
from bsr_explorer.search.space import Candidate
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.store.study import Study
from tests.search.killing import IMPORTS, InAnyOrder

MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.thorough]  # a real cluster

CONFIG = Config(model="toy", image_size=48, batch_size=4, method="linear")
JOB = Job("digits", Fidelity(image_size=32, train_size=20, val_size=20, epochs=2), "random", seed=3)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes of one core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # what a node imports
        patch.setenv("RAY_worker_niceness", "0")  # or tests beside these would leave trials no time
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.second = made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


def finish(workers: Ray, count: int = 1) -> list[Done | Crashed]:
    """Wait until so many have ended."""
    ended: list[Done | Crashed] = []
    deadline = time.monotonic() + 200
    while len(ended) < count:
        assert time.monotonic() < deadline
        ended += workers.wait(lambda *_: None, 1.0)
    return sorted(ended, key=lambda each: each.number)


class Watch:
    """Notes what is told, and calls when the second trial begins."""

    def __init__(self, call: Callable[[], None] = lambda: None) -> None:
        self.call = call
        self.crashed: list[tuple[int, str]] = []

    def trial_starts(self, number: int, candidate: Candidate, replica: int) -> None:
        if number == 1:
            self.call()

    def step(self, number: int, done: int, total: int, loss: float) -> None:
        pass

    def trial_crashed(self, number: int, reason: str) -> None:
        self.crashed.append((number, reason))

    def trial_ends(self, number: int, record: Record) -> None:
        pass


def test_a_trial_comes_back_from_a_node_and_a_crash_is_told(nodes: Any, tmp_path: Path) -> None:
    workers = Ray(nodes.address, imports=(*IMPORTS, "tests.crashing"))
    assert (workers.jobs, workers.threads, workers.parallel("cpu")) == (2, 1, 2)
    assert 10**8 < workers.room("cpu") < 10**14
    (tmp_path / "study").mkdir()
    log = tmp_path / "study" / "logs" / "0.txt"
    workers.begin(Task(0, CONFIG, "key", JOB))
    workers.begin(Task(1, CONFIG, "crash by exit", JOB, log))
    done, crashed = finish(workers, 2)
    assert isinstance(done, Done)
    assert (done.record.status, done.record.seed) == ("finished", 3)
    assert isinstance(crashed, Crashed)
    assert crashed.kind == "crash"
    assert crashed.tail == "something went wrong"

    workers.begin(Task(3, CONFIG, "crash by sleep", JOB, seconds=1.0))
    (late,) = finish(workers)
    assert isinstance(late, Crashed)
    assert (late.kind, late.reason) == ("timeout", "took longer than 1 s")

    missing = replace(JOB, data=str(tmp_path / "nothing"))
    workers.begin(Task(2, CONFIG, "key", missing))
    with pytest.raises(UserError, match="--data: "):
        finish(workers)


def test_what_no_node_can_hold_is_refused(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Ray(nodes.address)
    monkeypatch.setattr(module, "PROCESS", 10**15)
    with pytest.raises(
        UserError, match=r"--cluster: trial 0 needs 1,000,000,000.* MB .*more than any node has"
    ):
        workers.begin(Task(0, CONFIG, "key", JOB))
    with pytest.raises(UserError, match="--cluster: no node of the cluster has a GPU"):
        Ray(nodes.address, "cuda")


def test_a_trial_asks_for_its_memory(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    workers = Ray(nodes.address, jobs=5)

    class Noting:
        def options(self, **needs: Any) -> Any:
            asked.append(needs)
            return self

        def remote(self, *_: Any) -> str:
            return "a reference"

    monkeypatch.setattr(workers, "_work", Noting())
    workers.begin(Task(0, CONFIG, "key", JOB))
    peak = predict(JOB.fidelity.at(CONFIG)).peak_bytes
    assert asked == [{"num_cpus": 1, "memory": module.PROCESS + peak}]
    assert workers.jobs == 5


@pytest.mark.long
def test_a_search_outlives_a_node(
    nodes: Any, make_study: MakeStudy, open_search: OpenSearch, tmp_path: Path
) -> None:
    study = make_study(trials=4, fidelity=Fidelity(32, 20, 20, epochs=40))
    folder = tmp_path / "cluster"

    def lose() -> None:
        logs = [folder / "logs" / f"000{number}.txt" for number in (0, 1)]
        deadline = time.monotonic() + 120
        while not all(log.exists() for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        nodes.remove_node(nodes.second)

    workers, watch = Ray(nodes.address, imports=IMPORTS), Watch(lose)
    search = open_search(study, folder, workers)
    ended = search.run(watch)
    assert (ended.because, ended.finished, ended.failed) == ("trials", 4, 0)
    assert len(workers._nodes()) == 1
    nodes.second = nodes.add_node(num_cpus=1)  # for other tests
    ((number, reason),) = watch.crashed
    assert reason.startswith("its node was lost: ")
    open_search(study, tmp_path / "whole", InAnyOrder(2, 0)).run(Watch())
    mine, whole = read_records(folder), read_records(tmp_path / "whole")
    assert {n: (r.key, r.seed, r.accuracy, r.losses) for n, r in mine.items()} == {
        n: (r.key, r.seed, r.accuracy, r.losses) for n, r in whole.items()
    }
    (attempt,) = mine[number].study["attempts"]
    assert (attempt["kind"], attempt["reason"]) == ("lost", reason)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "a:b"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=f"--cluster: no Ray cluster answers at '{address}'"):
        Ray(address)
    assert time.monotonic() - began < 30


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "bsr-explorer\[cluster\]"'):
        Ray("local")
