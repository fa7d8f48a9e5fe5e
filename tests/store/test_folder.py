"""A folder to write into: refused before anything is made, and one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import alone, at_work, check_writable


def test_a_folder_that_can_be_made_is_writable_and_is_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    with pytest.raises(UserError, match=f"--out: {folder} cannot be a folder: {tmp_path / 'file'} is a file"):
        check_writable(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="no permission"):
            check_writable(tmp_path / "study")
    finally:
        tmp_path.chmod(0o700)


def test_permission_is_asked_of_what_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Path] = []

    def refuse(path: Path, mode: int) -> bool:
        asked.append(path)
        return False

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(UserError, match=f"--out: .*no permission for {tmp_path}"):
        check_writable(tmp_path / "a" / "b")
    assert asked == [tmp_path]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        alone(tmp_path, "a.lock", "comparison"),
        pytest.raises(UserError, match=f"--out: another comparison is at work in {tmp_path}"),
        alone(tmp_path, "a.lock", "comparison"),
    ):
        pass
    with alone(tmp_path, "a.lock", "comparison"):
        pass


def test_who_is_at_work_can_be_asked(tmp_path: Path) -> None:
    assert not at_work(tmp_path, "a.lock")
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path, "a.lock", "comparison"):
        assert at_work(tmp_path, "a.lock")
        assert not at_work(tmp_path, "b.lock")
    assert not at_work(tmp_path, "a.lock")
    with alone(tmp_path, "a.lock", "comparison"):
        pass  # to ask holds nothing up
