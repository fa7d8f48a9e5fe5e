"""Steps of several tasks against real ones."""

from __future__ import annotations

import pytest

from benchmarks import tasks
from benchmarks.steps import compare
from bsr_explorer.config import Config


def test_there_are_enough_of_them() -> None:
    found = tasks.configs()
    assert len({*found}) == len(found) >= 100
    assert {config.model for config in found} == {*tasks.MODELS}
    assert all(config.tasks for config in found)


@pytest.mark.thorough
@pytest.mark.parametrize("config", tasks.configs()[::20], ids=str)
def test_one_is_predicted(config: Config) -> None:
    assert not compare(config)["off"]
