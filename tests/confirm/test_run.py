"""Training what is to be confirmed: a record a run, and nothing lost where it is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bsr_explorer.config import Fidelity
from bsr_explorer.confirm.plan import Run, chosen, left
from bsr_explorer.confirm.run import LOCK, confirm
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import Record, read_records

JOB = Job("digits", Fidelity(48, 20, 20, 1), "random")


class Watch:
    """Notes what is told, and raises in a run's step."""

    def __init__(self, raise_at: tuple[int, int] | None = None) -> None:
        self.raise_at, self.begun, self.ended = raise_at, 0, []  # type: ignore[var-annotated]

    def begins(self, tasks: Sequence[Run]) -> None:
        self.total = len(tasks)

    def starts(self, task: Run) -> None:
        self.begun += 1

    def step(self, done: int, total: int, loss: float = 0.0) -> None:
        if (self.begun, done) == self.raise_at:
            raise KeyboardInterrupt

    def ends(self, task: Run, record: Record) -> None:
        self.ended.append((task.point.number, task.seed, record.status))


@pytest.fixture
def runs(finished_once: Path, tmp_path: Path) -> list[Run]:
    points = chosen(Findings.read(finished_once), 1)[:3]
    return left(points, 1, JOB, tmp_path)


def test_each_run_leaves_its_record(runs: list[Run], tmp_path: Path) -> None:
    watch = Watch()
    confirm(runs, JOB, None, tmp_path, watch)
    assert watch.ended == [(run.point.number, 0, "finished") for run in runs]
    assert watch.total == watch.begun == len(runs)
    records = read_records(tmp_path)
    assert [record.key for record in records.values()] == [run.point.record.key for run in runs]
    assert {(r.fidelity["image_size"], r.seed) for r in records.values()} == {(48, 0)}
    assert not list(tmp_path.rglob("*.pt"))
    assert left([run.point for run in runs], 1, JOB, tmp_path) == []


def test_it_goes_on_where_it_was_stopped(runs: list[Run], tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        confirm(runs, JOB, None, here, Watch(raise_at=(2, 2)))
    assert len(read_records(here)) == 1
    confirm(left([run.point for run in runs], 1, JOB, here), JOB, None, here, Watch())
    confirm(runs, JOB, None, there, Watch())
    found = [[(r.key, r.accuracy, r.losses) for r in read_records(each).values()] for each in (here, there)]
    assert found[0] == found[1]


def test_two_at_once_are_refused(runs: list[Run], tmp_path: Path) -> None:
    with alone(tmp_path, LOCK, "confirmation"), pytest.raises(UserError, match="confirmation"):
        confirm(runs, JOB, None, tmp_path, Watch())
    assert read_records(tmp_path) == {}
