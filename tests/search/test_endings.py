"""How trials end that leave no sound record."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import predict
from bsr_explorer.search.choices import Candidate
from bsr_explorer.search.endings import Running, record_of_crash, sound
from bsr_explorer.search.executors.base import Crashed, Task
from bsr_explorer.store.records import Record

CRASH = Crashed(3, "crash", "the process was killed by signal 9", "the last lines")


@pytest.fixture
def running(toy: str) -> Running:
    config = Config(toy, 48, batch_size=4, method="linear")
    task = Task(3, config, "a key", Job(data="digits", seed=5), Path("log"), 60.0)
    return Running(Candidate(config, "a key", 1, 1), task, [{"kind": "crash"}])


def test_a_crash_is_a_record_of_what_was_tried(running: Running) -> None:
    record = record_of_crash(CRASH, running)
    assert (record.status, record.reason) == ("failed", CRASH.reason)
    assert (record.key, record.seed, record.data) == ("a key", 5, "digits")
    assert record.predicted == predict(running.task.config).summary()
    assert (record.accuracy, record.losses) == (None, [])


def test_it_says_how_often_it_was_tried(running: Running) -> None:
    running.attempts *= 2
    assert record_of_crash(CRASH, running).reason == f"{CRASH.reason} (attempt 2)"


def test_a_process_that_found_no_memory_is_out_of_memory(running: Running) -> None:
    assert record_of_crash(replace(CRASH, kind="out_of_memory"), running).status == "out_of_memory"


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, -math.inf])
def test_an_accuracy_that_is_no_number_is_no_result(running: Running, accuracy: float) -> None:
    record = replace(record_of_crash(CRASH, running), status="finished", accuracy=accuracy, reason=None)
    diverged = sound(record)
    assert (diverged.status, diverged.accuracy) == ("diverged", None)
    assert diverged.reason == f"the accuracy was {accuracy}"


@pytest.mark.parametrize("accuracy", [None, 0.0, 0.5])
def test_what_is_sound_stays(running: Running, accuracy: float | None) -> None:
    record: Record = replace(record_of_crash(CRASH, running), accuracy=accuracy)
    assert sound(record) is record
