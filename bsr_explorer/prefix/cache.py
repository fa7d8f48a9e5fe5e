"""The outputs of frozen blocks on disk, bounded in size and shared by processes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from bsr_explorer.data.places import default_data_dir
from bsr_explorer.files import whole
from bsr_explorer.units import format_bytes

LOG = logging.getLogger(__name__)

Bits = NDArray[Any]
"""Numbers of any format, as whole numbers of the same width: equal if all their bits are."""

BITS: dict[int, tuple[torch.dtype, type[np.generic]]] = {
    4: (torch.int32, np.int32),
    2: (torch.int16, np.int16),
}


# --- files ----------------------------------------------------------------------------------------------


def default_folder() -> Path:
    """``$BSR_EXPLORER_CACHE``, or else ``prefixes`` beside the folder of the data sets."""
    return Path(os.environ.get("BSR_EXPLORER_CACHE") or default_data_dir().parent / "prefixes").expanduser()


@dataclass(frozen=True)
class Cache:
    """A folder of arrays that may be lost at any time; many processes may use it at once.

    Attributes:
        folder: where they lie.
        most_bytes: that they may take together. What was not used for longest goes first.
    """

    folder: Path = field(default_factory=default_folder)
    most_bytes: int = 4 * 10**9

    def find(self, key: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Bits | None:
        """The array of this key, shape and type, mapped into memory and not to be written to; None if there is
        none, or if the file is another's or torn."""
        path = self.folder / f"{key}.npy"
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if (found.shape, found.dtype) != (shape, np.dtype(dtype)):
                return None
            if path.stat().st_size != found.offset + found.nbytes:
                return None
        except (OSError, ValueError, EOFError):
            return None
        with suppress(OSError):  # where nothing may be written, there is something to read
            os.utime(path)  # used last now
        return cast(Bits, found)

    def forget(self, key: str) -> None:
        """Remove the array of a key, which turned out to be wrong."""
        with suppress(OSError):
            (self.folder / f"{key}.npy").unlink(missing_ok=True)

    def get(
        self, key: str, shape: tuple[int, ...], dtype: type[np.generic], make: Callable[[], Iterator[Bits]]
    ) -> Bits | None:
        """The array of a key, made now if it is not there; None if it cannot be kept.

        While one process makes it, others that want it wait.

        Args:
            make: its parts, in order.
        """
        if (found := self.find(key, shape, dtype)) is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(key), ExitStack() as stack:
                if (found := self.find(key, shape, dtype)) is not None:
                    return found
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                with self._lock("room"):
                    if not self._make_room(key, size):
                        return None
                    file = stack.enter_context(whole(self.folder / f"{key}.npy"))
                    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.truncate(file.tell() + size)  # others see how much room it will take
                for part in make():
                    file.write(np.ascontiguousarray(part).data)
            return self.find(key, shape, dtype)
        except OSError as error:
            LOG.warning(
                "%s: frozen blocks run again in each step, for nothing can be kept (%s)", self.folder, error
            )
            return None

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", timeout=timeout)

    def _make_room(self, mine: str, size: int) -> bool:
        """Remove what was not used for longest until so many bytes more are within the bound, and on the disk."""
        if size > self.most_bytes:
            LOG.warning(
                "%s: frozen blocks run again in each step, for what they make takes %s, and the most is %s",
                self.folder,
                format_bytes(size),
                format_bytes(self.most_bytes),
            )
            return False
        for left in self.folder.glob(".*.npy.*.tmp"):
            key = left.name.split(".")[1]
            with suppress(Timeout), ExitStack() as stack:
                if key != mine:  # whose lock is held
                    stack.enter_context(self._lock(key, timeout=0))
                left.unlink(missing_ok=True)  # by a process that was killed
        kept = sorted((seen.st_mtime, seen.st_size, path) for path, seen in self._files())
        taken = sum(bytes_ for _, bytes_, _ in kept)
        for _, bytes_, path in kept:
            if taken + size <= self.most_bytes and shutil.disk_usage(self.folder).free > size:
                break
            if path.suffix == ".npy":
                path.unlink(missing_ok=True)
                taken -= bytes_
        return taken + size <= self.most_bytes and shutil.disk_usage(self.folder).free > size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What is kept, and what is being made. A file that is finished meanwhile is found as the one or the other:
        what is being made is looked for first."""
        found: dict[str, tuple[Path, os.stat_result]] = {}
        for pattern, key_at in ((".*.npy.*.tmp", 1), ("*.npy", 0)):
            for path in list(self.folder.glob(pattern)):
                with suppress(FileNotFoundError):
                    found[path.name.split(".")[key_at]] = path, path.stat()
        yield from found.values()
