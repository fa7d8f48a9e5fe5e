"""Trials in this process: one after another, at the pace and with the memory of the machine."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.job import Job
from bsr_explorer.search.executors.base import Done, Task
from bsr_explorer.search.executors.here import Here
from bsr_explorer.search.executors.machine import memory_of

CONFIG = Config(model="toy", image_size=48, batch_size=4, method="linear")
JOB = Job("digits", Fidelity(image_size=32, train_size=20, val_size=20, epochs=1), "random", seed=3)


@pytest.mark.usefixtures("toy")
def test_a_trial_trains_when_it_is_waited_for() -> None:
    here = Here()
    steps: list[tuple[int, int, int, float]] = []
    here.begin(Task(3, CONFIG, "key", JOB))
    (ended,) = here.wait(lambda *step: steps.append(step), 0.0)
    assert isinstance(ended, Done)
    assert (ended.number, ended.record.status) == (3, "finished")
    assert [step[:3] for step in steps] == [(3, done, 5) for done in range(1, 6)]


def test_it_has_the_machine_for_itself() -> None:
    here = Here()
    assert (here.jobs, here.threads, here.parallel("cpu"), here.parallel("cuda")) == (1, None, 1, 1)
    assert here.room("cpu") == memory_of("cpu")
