"""What figures are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bsr_explorer.report import style


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
