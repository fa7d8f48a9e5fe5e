"""A folder to write into: refused before anything is made, and one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.store.folder import (
    alone,
    aside,
    at_work,
    check_free,
    check_movable,
    check_writable,
    move_aside,
)


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


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that nobody can write."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))


def test_a_read_only_file_system_is_called_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read_only(monkeypatch)
    with pytest.raises(UserError) as error:
        check_writable(tmp_path / "study", "STUDY", "write elsewhere")
    assert str(error.value) == f"STUDY: {tmp_path / 'study'} is on a read-only file system; write elsewhere"


def test_who_comes_second_is_refused_at_once(tmp_path: Path) -> None:
    check_free(tmp_path, "a.lock", "search")
    with (
        alone(tmp_path, "a.lock", "search"),
        pytest.raises(UserError, match=f"--out: another search is at work in {tmp_path}; wait for it"),
    ):
        check_free(tmp_path, "a.lock", "search")


# --- out of the way -------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "record").write_text("dear")
    return tmp_path / "study"


def test_a_folder_is_moved_whole_to_the_first_free_place(study: Path) -> None:
    for number in (1, 2):
        place = move_aside(study, "a.lock", "search")
        assert place == study.with_name(f"study.{number}")
        assert (place / "record").read_text() == "dear"
        assert not study.exists()
        study.mkdir()
        (study / "record").write_text("dear")
    study.with_name("study.3").symlink_to("nowhere")  # a link that leads nowhere is in the way too
    assert aside(study) == study.with_name("study.4")


def test_a_folder_in_use_stays_where_it_is(study: Path) -> None:
    with (
        alone(study, "a.lock", "search"),
        pytest.raises(UserError, match=f"another search is at work in {study}"),
    ):
        move_aside(study, "a.lock", "search")
    assert (study / "record").read_text() == "dear"
    assert not study.with_name("study.1").exists()


@pytest.mark.parametrize("below", ["", "record-of-mine"])
def test_nobody_is_moved_away_from_under_their_feet(
    study: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / below).mkdir(exist_ok=True)
    monkeypatch.chdir(study / below)
    with pytest.raises(UserError, match=r"--fresh: .* is where you are"):
        check_movable(study)
    with pytest.raises(UserError, match=r"--fresh: .* is where you are"):
        check_movable(Path("." if not below else ".."))


def test_a_parent_that_cannot_be_written_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    with pytest.raises(UserError) as error:
        move_aside(study, "a.lock", "search")
    assert str(error.value) == (
        f"--fresh: {study.parent} is on a read-only file system; give a new folder with --out instead"
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EROFS, "is on a read-only file system"),
        (errno.EBUSY, "cannot be written (Device or resource busy)"),
    ],
)
def test_a_folder_that_cannot_be_moved_stays(
    study: Path, code: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, to: Path) -> None:
        raise OSError(code, os.strerror(code), str(path), None, str(to))

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError) as error:
        move_aside(study, "a.lock", "search")
    assert str(error.value) == f"--fresh: {study} {why}; give a new folder with --out instead"
    assert (study / "record").read_text() == "dear"
