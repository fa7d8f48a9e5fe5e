"""What this machine has."""

from __future__ import annotations

import os

import pytest

from bsr_explorer.search.executors.machine import cores, memory_of


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_only_cores_that_this_process_may_use_count() -> None:
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert cores() == len(mine)


def test_memory_is_that_of_the_whole_machine() -> None:
    assert 10**8 < memory_of("cpu") < 10**14
