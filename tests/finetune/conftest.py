"""A fine-tune that is only read, and what a fine-tune leaves."""

from __future__ import annotations

from typing import Any

import pytest

from bsr_explorer.finetune import run as run_module
from bsr_explorer.store.records import Record
from bsr_explorer.train.step import Step
from tests.finetune.tuning import Weights, tune


@pytest.fixture(scope="session")
def record(toy: str) -> Record:
    """Of the toy, with seed 3. Not to be changed."""
    return tune(seed=3)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> Weights:
    """The parameters and buffers of the model that was trained last."""
    steps: list[Step] = []
    make = run_module.make_step

    def noted(*arguments: Any) -> Step:
        steps.append(make(*arguments))
        return steps[-1]

    monkeypatch.setattr(run_module, "make_step", noted)
    return lambda: [t.detach().clone() for t in (*steps[-1].model.parameters(), *steps[-1].model.buffers())]
