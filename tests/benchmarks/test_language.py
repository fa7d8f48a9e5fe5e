"""Language models against real steps."""

from __future__ import annotations

import pytest

from benchmarks import language
from benchmarks.steps import compare
from bsr_explorer.config import Config


def test_there_are_enough_of_them() -> None:
    found = language.configs()
    assert len({*found}) == len(found) >= 60


@pytest.mark.thorough
@pytest.mark.parametrize("config", language.configs()[::30], ids=str)
def test_one_is_predicted(config: Config) -> None:
    assert not compare(config)["off"]
