"""A pool of images: files, cells of files or arrays, with their labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsr_explorer.data import reading as images
from bsr_explorer.data.cells import Cell, Encoded
from bsr_explorer.data.contents import DAMAGED, Contents
from bsr_explorer.errors import UserError

PERCENT = 10
"""The share of the train images that becomes a part which a data set does not have."""


class Images(Protocol):
    """Images by their position."""

    def __getitem__(self, index: int) -> Image.Image:
        """One of them, in RGB."""
        ...

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for equal images, in this order."""
        ...

    def files(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> dict[Encoded, str]:
        """The files (or cells) that some of them, or all, are read from, and the name of each below the folder of the
        data set; none, where they lie in memory."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Images that lie in memory as one array of uint8, (N, H, W) or (N, H, W, 3)."""

    pixels: NDArray[np.uint8]

    def __getitem__(self, index: int) -> Image.Image:
        return images.to_rgb(Image.fromarray(self.pixels[index]))

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for equal images, in this order."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels[indices]).data).digest()

    def files(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> dict[Encoded, str]:
        """None."""
        return {}


@dataclass(frozen=True)
class Files:
    """Images that are read when they are asked for: files, or cells of files."""

    root: Path
    paths: tuple[Encoded, ...]

    def __getitem__(self, index: int) -> Image.Image:
        path = self.paths[index]
        try:
            return images.read(path)
        except images.Unreadable as error:
            raise UserError(
                f"--data: cannot read {path} ({error}); replace or remove it, or leave it out with --skip-bad"
            ) from error

    def name(self, path: Encoded) -> str:
        """Of a file: its path below the data set's folder; of a cell, the row too."""
        if isinstance(path, Cell):
            return f"{self.name(path.column.file)}:{path.row}"
        return path.relative_to(self.root).as_posix()

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for the same files, in this order, as long as none is written anew."""
        found = hashlib.sha256()
        for path in (self.paths[index] for index in indices):
            seen = path.stat()
            found.update(f"{path} {seen.st_size} {seen.st_mtime_ns}\n".encode())
        return found.digest()

    def files(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> dict[Encoded, str]:
        """See ``Images``."""
        paths = self.paths if indices is None else (self.paths[index] for index in indices)
        return {path: self.name(path) for path in paths}


@dataclass(frozen=True)
class Pool:
    """Images before any transform, and the label of each. Equal keys mean equal images."""

    key: Hashable
    images: Images
    labels: NDArray[np.int64]

    def without(self, skip: Collection[str]) -> Pool:
        """The same without the files of these names."""
        if not skip or not isinstance(self.images, Files):
            return self
        kept = [n for n, path in enumerate(self.images.paths) if self.images.name(path) not in skip]
        paths = tuple(self.images.paths[n] for n in kept)
        return Pool(paths, replace(self.images, paths=paths), self.labels[kept])


@dataclass(frozen=True)
class Given:
    """What a data set comes with. ``percent`` of train becomes each part that is missing; see ``Contents`` for
    ``left_out``."""

    name: str
    classes: tuple[str, ...]
    train: Pool
    validation: Pool | None = None
    test: Pool | None = None
    percent: int = PERCENT
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def pools(self) -> dict[str, Pool]:
        """Those that it comes with, by the name of the part."""
        pools = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: pool for part, pool in pools.items() if pool is not None}


def without(given: Given, skip: Collection[str]) -> Given:
    pools: dict[str, Any] = {part: pool.without(skip) for part, pool in given.pools.items()}
    damaged = sum(len(pool.labels) - len(pools[part].labels) for part, pool in given.pools.items())
    return replace(given, **pools, left_out={**given.left_out, DAMAGED: damaged}) if damaged else given


def as_given(name: str, classes: Sequence[str], pools: dict[str, Pool]) -> Given:
    return Given(name, tuple(classes), pools["train"], pools.get("validation"), pools.get("test"))


def reason_of(left_out: Iterable[Counter[str]]) -> str:
    said = Contents(left_out=sum(left_out, Counter[str]())).of_left_out()
    return f"; left out: {said}" if said else ""
