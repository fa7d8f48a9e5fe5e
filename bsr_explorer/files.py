"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bsr_explorer.interrupt import held


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is at ``path`` when all of it is written, and not before.

    It is a temporary file beside it, flushed to disk, then renamed. If anything goes wrong it is gone, and what
    was at ``path`` is still there. Ctrl-C waits until it is written (see ``interrupt``).
    """
    with held():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
