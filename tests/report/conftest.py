"""What figures are drawn, and in which formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bsr_explorer.report import style


@pytest.fixture(autouse=True)
def one_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three formats of a figure take thrice as long; where a test does not say otherwise, PNG is enough."""
    if "all_formats" not in request.fixturenames:
        monkeypatch.setattr(style, "UNDATED", {"png": style.UNDATED["png"]})


@pytest.fixture
def all_formats() -> None:
    """Asks for figures in every format."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(figure, axes) of each figure that is made."""
    made: list[tuple[Any, Any]] = []
    real = style.figure

    @contextmanager
    def watched(*size: float, **options: Any) -> Iterator[tuple[Any, Any]]:
        with real(*size, **options) as both:
            made.append(both)
            yield both

    monkeypatch.setattr(style, "figure", watched)
    return made
