"""Where images and labels come from: each data set's own files, read into pools that ``data`` splits."""

from __future__ import annotations

import gzip
import hashlib
import socket
import tarfile
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray
from PIL import Image

from bsr_explorer.errors import UserError
from bsr_explorer.train import folders, images
from bsr_explorer.train.contents import DAMAGED, Contents
from bsr_explorer.train.datasets import (
    DATASETS,
    DatasetInfo,
    check_data,
    fashion_mnist_folder,
    folder_parts,
    idx_file,
    is_unpacked,
)

DOWNLOAD_TIMEOUT = 30.0
"""Seconds of silence after which a download has failed."""

_PERCENT = 10
"""The share of the train images that becomes a part which a data set does not have."""

_OFFICIAL: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10": {"train": {"train": True}, "test": {"train": False}},
    "cifar100": {"train": {"train": True}, "test": {"train": False}},
    "flowers102": {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}},
    "pets": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "food101": {"train": {"split": "train"}, "test": {"split": "test"}},
}
"""How torchvision is asked for the parts that it has."""


@dataclass(frozen=True)
class _Arrays:
    """Images that lie in memory as one array of uint8, (N, H, W) or (N, H, W, 3)."""

    pixels: NDArray[np.uint8]

    def __getitem__(self, index: int) -> Image.Image:
        return images.to_rgb(Image.fromarray(self.pixels[index]))

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for equal images, in this order."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels[indices]).data).digest()


@dataclass(frozen=True)
class Files:
    """Images that are read when they are asked for."""

    root: Path
    paths: tuple[Path, ...]

    def __getitem__(self, index: int) -> Image.Image:
        path = self.paths[index]
        try:
            return images.read(path)
        except images.Unreadable as error:
            raise UserError(
                f"--data: cannot read {path} ({error}); replace or remove it, or leave it out with --skip-bad"
            ) from error

    def name(self, path: Path) -> str:
        """Of a file: its path below the data set's folder."""
        return path.relative_to(self.root).as_posix()

    def fingerprint(self, indices: NDArray[np.intp]) -> bytes:
        """Equal for the same files, in this order, as long as none is written anew."""
        found = hashlib.sha256()
        for path in (self.paths[index] for index in indices):
            seen = path.stat()
            found.update(f"{path} {seen.st_size} {seen.st_mtime_ns}\n".encode())
        return found.digest()


@dataclass(frozen=True)
class Pool:
    """Images before any transform, and the label of each. Equal keys mean equal images."""

    key: Hashable
    images: _Arrays | Files
    labels: NDArray[np.int64]

    def without(self, skip: Collection[str]) -> Pool:
        """The same without the files of these names."""
        if not skip or isinstance(self.images, _Arrays):
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
    percent: int = _PERCENT
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def pools(self) -> dict[str, Pool]:
        """Those that it comes with, by the name of the part."""
        pools = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: pool for part, pool in pools.items() if pool is not None}


def load(data: str, data_dir: Path, skip: Collection[str] = ()) -> Given:
    """A data set of a name, or an image folder.

    Args:
        skip: image files to leave out, by their path below the folder of the data.

    Raises:
        UserError: files that are missing, incomplete or unreadable, or cannot be downloaded.
    """
    if data not in DATASETS:
        return _load_folder(data, frozenset(skip))
    return _without(load_named(data, data_dir), frozenset(skip))


def _without(given: Given, skip: Collection[str]) -> Given:
    pools: dict[str, Any] = {part: pool.without(skip) for part, pool in given.pools.items()}
    damaged = sum(len(pool.labels) - len(pools[part].labels) for part, pool in given.pools.items())
    return replace(given, **pools, left_out={**given.left_out, DAMAGED: damaged}) if damaged else given


@lru_cache(maxsize=2)
def load_named(name: str, data_dir: Path) -> Given:
    # Remembered, because a search asks for the same data in every trial.
    if name == "digits":
        return _load_digits()
    check_data(name, data_dir)
    if name == "fashion_mnist":
        return _load_fashion_mnist(data_dir)
    return _load_torchvision(DATASETS[name], data_dir)


def _given(name: str, classes: Sequence[str], pools: dict[str, Pool]) -> Given:
    return Given(name, tuple(classes), pools["train"], pools.get("validation"), pools.get("test"))


def _load_digits() -> Given:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pool = Pool(("digits",), _Arrays(images), digits.target.astype(np.int64))
    return Given("digits", tuple(str(digit) for digit in range(10)), train=pool, percent=20)


def _load_fashion_mnist(data_dir: Path) -> Given:
    folder = fashion_mnist_folder(data_dir)
    if folder is None:
        _fetch(DATASETS["fashion_mnist"], data_dir, {"train": True})
        folder = fashion_mnist_folder(data_dir)
        assert folder is not None
    pools = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1).astype(np.int64)
        if len(images) != len(labels):
            raise UserError(
                f"--data: fashion_mnist in {folder} has {len(images)} {part} images and {len(labels)} "
                "labels; replace its files"
            )
        pools[part] = Pool(("fashion_mnist", folder, part), _Arrays(images), labels)
    return _given("fashion_mnist", torchvision.datasets.FashionMNIST.classes, pools)


def _read_idx(folder: Path, name: str, *, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file: 4 bytes that say uint8 and the dimensions, their sizes, the values."""
    path = idx_file(folder, name)
    assert path is not None
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"--data: cannot read {path} ({_line(error)}); replace it") from error


def _load_torchvision(info: DatasetInfo, data_dir: Path) -> Given:
    datasets = {part: _fetch(info, data_dir, how) for part, how in _OFFICIAL[info.name].items()}
    pools = {
        part: Pool((info.name, data_dir, part), *_contents(dataset, data_dir))
        for part, dataset in datasets.items()
    }
    return _given(info.name, datasets["train"].classes, pools)


def _contents(dataset: Any, root: Path) -> tuple[_Arrays | Files, NDArray[np.int64]]:
    """A torchvision data set's images and labels, none of which is decoded."""
    if hasattr(dataset, "data"):
        return _Arrays(dataset.data), np.asarray(dataset.targets, dtype=np.int64)
    # The data sets of photographs have no public names for these, and their items decode the image.
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return Files(root, tuple(map(Path, paths))), np.asarray(dataset._labels, dtype=np.int64)


def _fetch(info: DatasetInfo, data_dir: Path, how: dict[str, Any]) -> Any:
    """A data set of torchvision's, downloaded or unpacked if it is not there."""
    there = is_unpacked(info, data_dir)
    try:
        with _default_timeout(DOWNLOAD_TIMEOUT):
            return getattr(torchvision.datasets, info.torchvision)(data_dir, download=not there, **how)
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError) as error:
        folder = data_dir / info.unpacked[0].partition("/")[0]
        what, remedy = (
            (f"in {folder} is incomplete or corrupt", f"delete {folder} to download it again")
            if there
            else (f"could not be downloaded to {data_dir}", f"put {', '.join(info.unpacked)} there")
        )
        raise UserError(
            f"--data: {info.name} {what} ({_line(error)}); {remedy}, or choose digits, which is embedded"
        ) from error


@contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """A limit for connections whose maker takes none; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_folder(data: str, skip: Collection[str]) -> Given:
    root = Path(data).expanduser().absolute()
    pools, left_out = {}, {}
    for part, folder in folder_parts(data).items():
        found = folders.scan(folder)
        left_out[part] = found.left_out
        if not found.paths:
            raise UserError(
                f"--data: there are no images in the class folders of {folder}{_why(found.left_out.values())}; put "
                "some there"
            )
        labels = np.asarray(found.labels, dtype=np.int64)
        pools[part] = Pool(found.paths, Files(root, found.paths), labels)
        classes = found.classes
    given = _given(root.resolve().name, classes, pools)
    every = sum((count for part in left_out.values() for count in part.values()), Counter[str]())
    given = _without(replace(given, left_out=dict(every)), skip)
    _check_counts(data, given, pools["train"], left_out["train"])
    return given


def _check_counts(data: str, given: Given, pool: Pool, left_out: Mapping[str, Counter[str]]) -> None:
    """Each class needs an image to train on, and one for each part that is cut from train.

    Args:
        pool: the training images with those that were left out as damaged.
        left_out: why other files of each class were left out.
    """
    needed = 1 + (given.validation is None) + (given.test is None)
    counts = np.bincount(given.train.labels, minlength=len(given.classes))
    fewest = int(counts.argmin())
    if counts[fewest] < needed:
        name = given.classes[fewest]
        damaged = Counter({DAMAGED: int((pool.labels == fewest).sum() - counts[fewest])})
        raise UserError(
            f"--data: {data!r}: class {name!r} has too few images to train on and to split "
            f"({counts[fewest]} of at least {needed}{_why([left_out[name], damaged])}); add images or remove the class"
        )


def _why(left_out: Iterable[Counter[str]]) -> str:
    said = Contents(left_out=sum(left_out, Counter[str]())).of_left_out()
    return f"; left out: {said}" if said else ""


def _line(error: Exception) -> str:
    """What an exception says, as part of a line."""
    return " ".join(str(error).split()) or type(error).__name__
