"""A fine-tune whose failure becomes a record: out of memory, and any other error."""

from __future__ import annotations

import re
import weakref
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune import attempt as attempt_module
from bsr_explorer.finetune import run as run_module
from bsr_explorer.finetune.attempt import attempt
from bsr_explorer.finetune.job import Job
from bsr_explorer.prediction import predict
from bsr_explorer.store.records import Record
from bsr_explorer.units import format_bytes
from tests.finetune.tuning import CONFIG, PROXY

pytestmark = pytest.mark.usefixtures("toy")

PREDICTED = re.escape(format_bytes(predict(Config("deit_t", 32, batch_size=4)).peak_bytes))


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has …"), "20.00 MiB"),
        (MemoryError(), "more memory than there is"),
        (MemoryError("Unable to allocate 7.11 PiB for an array"), "7.11 PiB"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4000000 bytes."
            ),
            "4.0 MB (3.8 MiB)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000"), "8.0 MB"),
        (RuntimeError("CUDA error: out of memory"), "more memory than there is"),
    ],
    ids=str,
)
def test_out_of_memory_is_told_beside_what_was_predicted(
    monkeypatch: pytest.MonkeyPatch, error: Exception, asked: str
) -> None:
    def fails(*_: Any) -> Record:
        raise error

    monkeypatch.setattr(attempt_module, "run", fails)
    config = Config("deit_t", 48, batch_size=4)
    record = attempt(config, "a key", Job(fidelity=PROXY, seed=5), lambda *_: None)
    assert (record.status, record.key, record.seed) == ("out_of_memory", "a key", 5)
    assert re.match(
        rf"out of memory: {re.escape(asked)}.* was asked for, and the predicted peak is {PREDICTED}; "
        rf"{type(error).__name__} at test_attempt\.py:\d+: ",
        record.reason,
    )


def test_an_allocation_that_really_fails_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "scores", lambda *_: torch.empty(10**15))
    record = attempt(CONFIG, "a key", Job(fidelity=PROXY, weights="random", test=True), lambda *_: None)
    assert record.status == "out_of_memory"
    assert record.reason.startswith("out of memory: 4,000,000,000.0 MB (")


def test_when_memory_is_out_what_the_run_held_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Any]] = []

    def fails(*_: Any) -> Record:
        large = torch.empty(1000)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def looked(*_: Any) -> Any:
        assert held[0]() is None
        return predict(CONFIG)

    monkeypatch.setattr(attempt_module, "run", fails)
    monkeypatch.setattr(attempt_module, "predict", looked)
    assert attempt(CONFIG, "a key", Job(fidelity=PROXY), lambda *_: None).status == "out_of_memory"


def test_any_other_error_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Record:
        raise RuntimeError("expected 4 dimensions")

    monkeypatch.setattr(attempt_module, "run", fails)
    record = attempt(CONFIG, "a key", Job(fidelity=PROXY), lambda *_: None)
    assert record.status == "failed"
    assert re.fullmatch(r"RuntimeError at test_attempt\.py:\d+: expected 4 dimensions", record.reason)
