"""What is kept in files: made once, within bounds, and never wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from bsr_explorer.prefix import cache as module
from bsr_explorer.prefix.cache import Cache, default_folder
from tests.prefix.kept import kept, never

ROWS = np.arange(100, dtype=np.int32).reshape(20, 5)  # 400 bytes


def get(cache: Cache, key: str, rows: Any = ROWS) -> Any:
    """The rows, kept in parts of 8."""
    return cache.get(key, rows.shape, np.int32, lambda: iter([rows[:8], rows[8:16], rows[16:]]))


def test_what_is_kept_is_made_once(cache: Cache) -> None:
    made = get(cache, "a")
    assert np.array_equal(made, ROWS)
    assert isinstance(made, np.memmap)
    found = cache.get("a", ROWS.shape, np.int32, never)
    assert np.array_equal(found, ROWS)
    assert np.array_equal(np.load(cache.folder / "a.npy"), ROWS)


def test_keys_are_kept_apart(cache: Cache) -> None:
    get(cache, "a")
    assert np.array_equal(get(cache, "b", ROWS + 1), ROWS + 1)
    assert kept(cache) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        "cut",
        "longer",
        np.zeros((20, 4), np.int32),
        np.zeros((20, 5), np.int16),
        np.array(["object"], dtype=object),
    ],
    ids=str,
)
def test_a_file_that_is_torn_or_foreign_is_made_again(cache: Cache, content: Any) -> None:
    get(cache, "a")
    path = cache.folder / "a.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-1], "longer": whole + b"x"}.get(content, content))
    assert cache.find("a", ROWS.shape, np.int32) is None
    assert np.array_equal(get(cache, "a"), ROWS)
    assert np.array_equal(cache.find("a", ROWS.shape, np.int32), ROWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=str)
def test_what_is_not_made_whole_is_not_kept(cache: Cache, error: BaseException) -> None:
    def breaks() -> Iterator[Any]:
        yield ROWS[:8]
        raise error

    with pytest.raises(type(error)):
        cache.get("a", ROWS.shape, np.int32, breaks)
    assert kept(cache) == set()
    assert not list(cache.folder.glob(".*.tmp"))
    assert np.array_equal(get(cache, "a"), ROWS)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=3 * 600)  # with its header, a file takes 528 bytes
    for age, key in enumerate("abc"):
        get(cache, key)
        os.utime(tmp_path / f"{key}.npy", (age, age))
    cache.find("a", ROWS.shape, np.int32)
    get(cache, "d")
    assert kept(cache) == {"a", "c", "d"}


def test_what_would_not_fit_moves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path, most_bytes=1000)
    get(cache, "a")
    large = np.zeros((20, 500), np.int32)
    assert cache.get("b", large.shape, np.int32, never) is None
    assert kept(cache) == {"a"}
    assert "takes 0.040 MB (0.038 MiB), and the most is 0.0010 MB (0.00095 MiB)" in caplog.text


def test_a_disk_that_is_full_is_left_alone(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage._replace(free=300))
    assert cache.get("a", ROWS.shape, np.int32, never) is None


def test_what_is_being_read_may_be_removed(cache: Cache) -> None:
    made = get(cache, "a")
    cache.forget("a")
    assert np.array_equal(made, ROWS)
    assert cache.find("a", ROWS.shape, np.int32) is None
    cache.forget("a")


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert Cache(tmp_path / "file").get("a", ROWS.shape, np.int32, never) is None
    assert "nothing can be kept" in caplog.text


def test_what_cannot_be_marked_as_used_can_be_read(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    get(cache, "a")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(cache.get("a", ROWS.shape, np.int32, never), ROWS)  # type: ignore[arg-type]


def test_many_who_want_the_same_have_it_made_once(cache: Cache) -> None:
    made: list[int] = []

    def slowly() -> Iterator[Any]:
        made.append(1)
        time.sleep(0.2)
        yield ROWS

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: cache.get("a", ROWS.shape, np.int32, slowly), range(8)))
    assert len(made) == 1
    assert all(np.array_equal(rows, ROWS) for rows in found)


def test_what_many_make_at_once_stays_in_bounds(tmp_path: Path) -> None:
    cache, seen = Cache(tmp_path, most_bytes=3 * 600), []

    def slowly() -> Iterator[Any]:
        time.sleep(0.05)
        seen.append(sum(size.st_size for _, size in cache._files()))
        yield ROWS

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda key: cache.get(key, ROWS.shape, np.int32, slowly), "abcdef"))
    assert max(seen) <= cache.most_bytes
    assert 1 <= len(kept(cache)) <= 3


def test_what_a_killed_process_left_is_removed(cache: Cache) -> None:
    get(cache, "a")
    left, at_work = cache.folder / ".b.npy.x1y2.tmp", cache.folder / ".c.npy.x1y2.tmp"
    left.write_bytes(b"half")
    at_work.write_bytes(b"half")
    mine = cache.folder / ".d.npy.x1y2.tmp"
    mine.write_bytes(b"half")
    with FileLock(cache.folder / "c.lock"):
        get(cache, "d")
    assert not left.exists()
    assert not mine.exists()
    assert at_work.exists()


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BSR_EXPLORER_CACHE", raising=False)
    monkeypatch.delenv("BSR_EXPLORER_DATA", raising=False)
    assert default_folder() == Path("~/.cache/bsr-explorer/prefixes").expanduser()
    monkeypatch.setenv("BSR_EXPLORER_DATA", str(tmp_path / "data"))
    assert Cache().folder == tmp_path / "prefixes"
    monkeypatch.setenv("BSR_EXPLORER_CACHE", str(tmp_path / "other"))
    assert Cache().folder == tmp_path / "other"
