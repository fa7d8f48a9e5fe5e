"""A package of a user's own, as if it were installed: its methods and its architecture are found by entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bsr_explorer.extensions import add_found
from bsr_explorer.methods import METHODS, Method
from bsr_explorer.models.architecture import ARCHITECTURES
from bsr_explorer.models.base import Architecture

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module", autouse=True)
def plugin(toy: str) -> Iterator[Path]:
    """The package ``bsr_extra`` is there while a module of these tests runs."""
    methods, architectures = dict(METHODS), dict(ARCHITECTURES)
    sys.path.insert(0, str(PLUGIN))
    add_found("bsr_explorer.methods", METHODS, Method)
    add_found("bsr_explorer.architectures", ARCHITECTURES, Architecture)
    yield PLUGIN
    sys.path.remove(str(PLUGIN))
    for registry, before in ((METHODS, methods), (ARCHITECTURES, architectures)):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(before)  # type: ignore[attr-defined]
