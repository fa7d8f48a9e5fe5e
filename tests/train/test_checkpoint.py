"""Checkpoints: whole, and of the same training, or not used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from bsr_explorer.train.checkpoint import Checkpoint

STATE = {"weights": [torch.arange(1000.0), torch.ones(2, dtype=torch.bfloat16)], "steps": 3, "seen": None}


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    checkpoint = Checkpoint(tmp_path / "0001.ckpt", "this one")
    checkpoint.save(STATE)
    return checkpoint


def test_what_was_saved_is_loaded(saved: Checkpoint) -> None:
    state = saved.load()
    assert state is not None
    assert all(torch.equal(a, b) for a, b in zip(state.pop("weights"), STATE["weights"], strict=True))
    assert state == {"steps": 3, "seen": None}


def test_the_last_one_counts(saved: Checkpoint) -> None:
    saved.save({"steps": 4})
    assert saved.load() == {"steps": 4}
    assert list(saved.path.parent.iterdir()) == [saved.path]


def test_none_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Checkpoint(tmp_path / "nothing", "this one").load() is None
    assert not caplog.records


def test_one_of_another_training_is_ignored(saved: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    assert Checkpoint(saved.path, "another").load() is None
    assert "training starts anew (it is of another training)" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "text", "other", "folder"])
def test_one_that_is_damaged_is_ignored(
    saved: Checkpoint, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    data = bytearray(saved.path.read_bytes())
    place = data.index(torch.arange(1000.0).numpy().tobytes()) + 400
    data[place] ^= 1
    if damage == "other":
        torch.save([1, 2], saved.path)
    elif damage == "folder":
        saved.path.unlink()
        saved.path.mkdir()
    else:
        saved.path.write_bytes({"cut": data[:3000], "byte": data, "empty": b"", "text": b"hello"}[damage])
    assert saved.load() is None
    assert "this checkpoint is ignored, and training starts anew (it cannot be read: " in caplog.text


def test_nothing_in_it_is_executed(saved: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"of": "this one", "state": {"path": saved.path}}, saved.path)  # an object of a class
    assert saved.load() is None
    assert "cannot be read" in caplog.text


def test_training_goes_on_where_none_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        Checkpoint(tmp_path / "file" / "0001.ckpt", "this one").save(STATE)
    assert "no checkpoint could be written" in caplog.text


def test_a_full_disk_leaves_the_last_one(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", full)
    saved.save({"steps": 4})
    assert "no checkpoint could be written (RuntimeError: [enforce fail" in caplog.text
    assert (saved.load() or {})["steps"] == 3
    assert list(saved.path.parent.iterdir()) == [saved.path]
