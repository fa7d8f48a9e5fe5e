"""Encoded images in Parquet files, as the Hugging Face Hub stores them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from bsr_explorer.errors import UserError, one_line

_LOCK = Lock()
"""One thread reads a column, and the others find it read: from Python 3.12, ``cached_property`` does not see to it."""


@dataclass(frozen=True)
class Column:
    """A column of images in a Parquet file. It is read when one of them is asked for, and stays in memory, encoded."""

    file: Path
    name: str

    @cached_property
    def encoded(self) -> Any:
        """pyarrow's array of (N,) bytes; null where a cell has none.

        Raises:
            UserError: the file cannot be read.
        """
        import pyarrow.compute

        return pyarrow.compute.struct_field(read_column(self.file, self.name), "bytes")


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a column; ``row`` counts from 0 in its file."""

    column: Column
    row: int

    def __str__(self) -> str:
        return f"{self.column.file}:{self.row}"

    def encoded(self) -> bytes | None:
        """The image as it was encoded; None if the cell is empty.

        Raises:
            UserError: the file cannot be read.
        """
        with _LOCK:
            column = self.column.encoded
        content: bytes | None = column[self.row].as_py()
        return content

    def stat(self) -> os.stat_result:
        """Of the file."""
        return self.column.file.stat()


Encoded = Path | Cell
"""Where an encoded image lies: in a file, or in a cell of one."""


def read_column(file: Path, name: str) -> Any:
    """A column of a Parquet file, as pyarrow's array of N rows.

    Raises:
        UserError: the file cannot be read.
    """
    import pyarrow.parquet

    with readable(file):
        # Without pyarrow's own threads: trials run in processes that are forked. Group by group: of more than 2 GB at
        # once, pyarrow cannot read what is nested.
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
        groups = [
            table.read_row_group(group, [name], use_threads=False) for group in range(table.num_row_groups)
        ]
        return pyarrow.concat_tables(groups or [table.schema_arrow.empty_table()]).column(name)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Says of a Parquet file that it cannot be read, and what to do.

    Raises:
        UserError: in place of what pyarrow raises.
    """
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"--data: cannot read {file} ({one_line(error)}); delete {file.resolve()} to download it again"
        ) from error
