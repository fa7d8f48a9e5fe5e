"""Records: whole or not at all, and named when they cannot be read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.quality import ACCURACY, PERPLEXITY
from bsr_explorer.store.records import FORMAT, Record, judged, read_records, write_record, write_text


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "finished",
        "config": {"model": "deit_t", "method": "linear"},
        "key": "0123456789abcdef",
        "fidelity": {"image_size": 32},
        "data": "digits",
        "seed": 0,
        "accuracy": 0.1 + 0.2,
        "losses": [2.5, 1 / 3],
    }
    return Record(**{**values, **changes})


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- writing --------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = [record(), record(status="failed", accuracy=None, reason="no “reason”\nat all")]
    paths = [write_record(tmp_path, number, one) for number, one in enumerate(written)]
    assert [path.name for path in paths] == ["0000.json", "0001.json"]
    assert read_records(tmp_path) == dict(enumerate(written))
    assert files(tmp_path) == {"records/0000.json", "records/0001.json"}
    assert json.loads(paths[0].read_text())["format"] == FORMAT


def test_a_record_is_readable_by_others(tmp_path: Path) -> None:
    assert write_record(tmp_path, 0, record()).stat().st_mode & 0o777 == 0o644


def test_records_come_in_the_order_of_their_trials(tmp_path: Path) -> None:
    for number in (10, 2, 10_000, 9):
        write_record(tmp_path, number, record(seed=number))
    read = read_records(tmp_path)
    assert sorted(read) == [2, 9, 10, 10_000]
    assert all(read[number].seed == number for number in read)


def test_no_folder_holds_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "nothing") == {}


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_write_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(type(error)):
        write_record(tmp_path, 0, record())
    assert files(tmp_path) == set()


def test_a_write_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "first")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "second")
    assert path.read_text() == "first"
    assert files(tmp_path) == {"notes.txt"}
    write_text(path, "third")
    assert path.read_text() == "third"


def test_text_is_in_place_only_when_it_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the moment of the renaming, the whole text is in a file of another name."""
    replace, seen = Path.replace, []

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.read_text(), target.exists(), self.parent == target.parent))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_text(tmp_path / "new" / "notes.txt", "all of it")
    assert seen == [("all of it", False, True)]


# --- reading --------------------------------------------------------------------------------------------


def test_keys_of_a_later_version_are_ignored() -> None:
    assert (
        Record.from_dict({**record().to_dict(), "mood": "good", "format": FORMAT + 1}).accuracy == 0.1 + 0.2
    )


def test_what_a_killed_write_left_is_no_record(tmp_path: Path) -> None:
    write_record(tmp_path, 0, record())
    (tmp_path / "records" / ".0001.json.x1y2.tmp").write_text('{"status": "fini')
    assert list(read_records(tmp_path)) == [0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0001.json", ""),
        ("0001.json", '{"status": "fini'),
        ("0001.json", '{"status": "finished"}'),
        ("notes.json", json.dumps(record().to_dict())),
        pytest.param("0001.json", "[]"),
        pytest.param("0001.json", "null"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, name: str, text: str) -> None:
    write_record(tmp_path, 0, record())
    bad = tmp_path / "records" / name
    bad.write_text(text)
    with pytest.raises(UserError) as error:
        read_records(tmp_path)
    assert str(error.value).startswith(f"{bad}: not a record of a trial")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    bad = write_record(tmp_path, 0, record())
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a record of a trial"):
        read_records(tmp_path)


def test_the_accuracy_of_each_task_is_said() -> None:
    assert record().by_task == ""
    of_tasks = record(accuracy_by_task={"digits": 0.5, "photos": 0.125})
    assert of_tasks.by_task == "digits 50.0%, photos 12.5%"
    tested = record(accuracy_by_task={"digits": 0.5}, test_accuracy_by_task={"digits": 0.25})
    assert tested.by_task == "digits 50.0% (25.0% on test)"


# --- what it was judged by ------------------------------------------------------------------------------


def test_a_perplexity_is_a_score_of_its_own(tmp_path: Path) -> None:
    one = record(**judged(PERPLEXITY, 0.25, 0.2), history=[8.0, 4.0])
    one = replace(one, accuracy=None)
    write_record(tmp_path, 0, one)
    read = read_records(tmp_path)[0]
    assert (read.quality, read.perplexity, read.test_perplexity, read.accuracy) == (
        "perplexity",
        4.0,
        5.0,
        None,
    )
    assert (read.score, read.test_score, read.scores) == (0.25, 0.2, [0.125, 0.25])


def test_a_record_of_before_means_accuracy() -> None:
    values = record().to_dict()
    for key in ("quality", "perplexity", "test_perplexity"):
        del values[key]
    read = Record.from_dict(values)
    assert read.judged is ACCURACY and read.score == read.accuracy == 0.1 + 0.2
