"""The command line without what takes long beside a small search or comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from bsr_explorer.store.records import Record

Cli = Callable[..., Any]


@pytest.fixture(scope="session")
def timed_once() -> Callable[..., Any]:
    """How fast this machine is, found out once for each model and size."""
    from bsr_explorer.search import plan

    return cache(plan.calibrate)


@pytest.fixture
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as PNG alone: three formats take thrice as long."""
    from bsr_explorer.report import style

    monkeypatch.setattr(style, "UNDATED", {"png": style.UNDATED["png"]})


@pytest.fixture
def quick(cli: Cli, timed_once: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line without figures, which take longer to draw than small searches; a model is timed once."""
    monkeypatch.setattr("bsr_explorer.search.plan.calibrate", timed_once)
    monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", {})
    return cli


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> Record:
        pytest.fail("a dry run trains nothing")

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", train)
