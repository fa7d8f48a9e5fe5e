"""Encoded images in Parquet files."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bsr_explorer.data import cells
from bsr_explorer.data.cells import Cell, Column
from bsr_explorer.errors import UserError
from tests.hub_cache import birds, png, table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A table of 20 images, in 3 groups of rows."""
    path = tmp_path / "train.parquet"
    path.write_bytes(birds())
    return path


def test_a_cell_gives_what_was_encoded(file: Path) -> None:
    column = Column(file, "image")
    assert [Cell(column, row).encoded() for row in (19, 0, 7)] == [png(19), png(0), png(7)]
    assert str(Cell(column, 7)) == f"{file}:7"
    assert Cell(column, 7).stat() == file.stat()


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_column_goes_on_from_group_to_group(groups: int, tmp_path: Path) -> None:
    schema = pa.schema([("label", pa.int64()), ("other", pa.string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for group in range(groups):
            writer.write_table(pa.table({"label": [2 * group, 2 * group + 1], "other": ["", ""]}, schema))
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == groups
    assert cells.read_column(tmp_path / "a.parquet", "label").to_pylist() == list(range(2 * groups))


def test_equal_cells_are_equal_whether_they_were_read_or_not(file: Path) -> None:
    cell = Cell(Column(file, "image"), 3)
    cell.encoded()
    again = Cell(Column(file, "image"), 3)
    assert again == cell and hash(again) == hash(cell)
    assert len({cell, again, Cell(Column(file, "image"), 4), Cell(Column(file, "other"), 3)}) == 3


def test_a_cell_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(table([png(0), None], [0, 1]))
    assert Cell(Column(path, "image"), 1).encoded() is None


def test_a_column_is_read_once_by_many_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = cells.read_column
    monkeypatch.setattr(
        cells, "read_column", lambda *of: read.append(of[1]) or time.sleep(0.05) or original(*of)
    )
    column = Column(file, "image")
    assert read == []
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: Cell(column, row).encoded(), range(20)))
    assert found == [png(row) for row in range(20)]
    assert read == ["image"]


def test_a_file_that_cannot_be_read_says_what_to_delete(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.parquet"
    link.symlink_to(file)
    content = file.read_bytes()
    file.write_bytes(
        b"\0" * (len(content) - 2000) + content[-2000:]
    )  # what says where the columns are is whole
    for damaged in (link, tmp_path / "none.parquet"):
        with pytest.raises(UserError) as error:
            Cell(Column(damaged, "image"), 0).encoded()
        said = str(error.value)
        assert said.startswith(f"--data: cannot read {damaged} (")
        assert said.endswith(f"; delete {damaged.resolve()} to download it again")
        assert "\n" not in said
