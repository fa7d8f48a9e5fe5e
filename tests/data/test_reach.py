"""Whether the host of a data set answers."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from bsr_explorer.data import places, reach
from bsr_explorer.data.catalogue import DATASETS


def test_the_probe_gives_up_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(reach, "urlopen", lambda *_, **__: time.sleep(5) or nullcontext())
    started = time.monotonic()
    assert not places.answers("http://example.invalid/file", seconds=0.2)
    assert time.monotonic() - started < 2


def test_the_probe_asks_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = tmp_path / "file"
    file.touch()
    assert places.answers(file.as_uri())
    assert not places.answers((tmp_path / "other").as_uri())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_no_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not places.answers("huggingface.co")


@pytest.mark.network
@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.torchvision])
def test_hosts_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert places.answers(DATASETS[name].url)
