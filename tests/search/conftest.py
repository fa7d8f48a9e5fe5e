"""Spaces that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsr_explorer.search.space import Space
from bsr_explorer.store.study import Study
from tests.search.spaces import SEVERAL, SMALL, SPEC

MakeStudy = Callable[..., Study]


@pytest.fixture(scope="module")
def small(make_study: MakeStudy) -> Space:
    """The space of ``SMALL``, most of which is within the budget."""
    return Space(make_study(space=SMALL, budget="1100KB"))


@pytest.fixture(scope="module")
def several(make_study: MakeStudy) -> Space:
    """A space of three batch sizes, with configurations beside the grid."""
    start = ("linear", "bsr(blocks=(1,), keep={})", "bitfit", "full")
    return Space(make_study(space=replace(SMALL, start=start, batch_sizes=SEVERAL)))


@pytest.fixture(scope="module")
def families(make_study: MakeStudy) -> Space:
    """The space of ``SPEC``: families that are laid out, and ones that are listed."""
    return Space(make_study(space=SPEC, budget="1600KB"))
