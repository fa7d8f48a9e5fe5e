"""Where images and labels come from: each data set's own files, read into pools that ``data`` splits."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torchvision
from numpy.typing import NDArray

from bsr_explorer.data import folders, hub, tables
from bsr_explorer.data.catalogue import DATASETS
from bsr_explorer.data.contents import DAMAGED
from bsr_explorer.data.download import fetch, load_torchvision
from bsr_explorer.data.places import availability, check_data, fashion_mnist_folder, folder_parts, idx_file
from bsr_explorer.data.pool import Arrays, Files, Given, Pool, as_given, reason_of, without
from bsr_explorer.errors import UserError, one_line


def load(data: str, data_dir: Path, skip: Collection[str] = ()) -> Given:
    """A data set of a name, one of the Hugging Face Hub, or an image folder.

    Args:
        skip: images to leave out, by the path of the file below the folder of the data, with the row of a cell.

    Raises:
        UserError: files that are missing, incomplete or unreadable, or cannot be downloaded.
    """
    if data.startswith(hub.PREFIX):
        return _load_hub(data, frozenset(skip))
    if data not in DATASETS:
        return _load_folder(data, frozenset(skip))
    return without(load_named(data, data_dir), frozenset(skip))


@lru_cache(maxsize=2)
def load_named(name: str, data_dir: Path) -> Given:
    # Remembered, because a search asks for the same data in every trial.
    if name == "digits":
        return _load_digits()
    check_data(name, data_dir)
    if availability(DATASETS[name], data_dir) == "hub cache":
        return tables.load_copy(DATASETS[name])
    if name == "fashion_mnist":
        return _load_fashion_mnist(data_dir)
    return load_torchvision(DATASETS[name], data_dir)


def _load_digits() -> Given:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pool = Pool(("digits",), Arrays(images), digits.target.astype(np.int64))
    return Given("digits", tuple(str(digit) for digit in range(10)), train=pool, percent=20)


def _load_fashion_mnist(data_dir: Path) -> Given:
    folder = fashion_mnist_folder(data_dir)
    if folder is None:
        fetch(DATASETS["fashion_mnist"], data_dir, {"train": True})
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
        pools[part] = Pool(("fashion_mnist", folder, part), Arrays(images), labels)
    return as_given("fashion_mnist", torchvision.datasets.FashionMNIST.classes, pools)


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
        raise UserError(f"--data: cannot read {path} ({one_line(error)}); replace it") from error


def _load_hub(data: str, skip: Collection[str]) -> Given:
    whole = tables.load(data)
    given = without(whole, skip)
    _check_counts(data, given, whole.train, {}, "choose another data set")
    return given


def _load_folder(data: str, skip: Collection[str]) -> Given:
    root = Path(data).expanduser().absolute()
    pools, left_out = {}, {}
    for part, folder in folder_parts(data).items():
        found = folders.scan(folder)
        left_out[part] = found.left_out
        if not found.paths:
            raise UserError(
                f"--data: there are no images in the class folders of "
                f"{folder}{reason_of(found.left_out.values())}; put some there"
            )
        labels = np.asarray(found.labels, dtype=np.int64)
        pools[part] = Pool(found.paths, Files(root, found.paths), labels)
        classes = found.classes
    given = as_given(root.resolve().name, classes, pools)
    every = sum((count for part in left_out.values() for count in part.values()), Counter[str]())
    given = without(replace(given, left_out=dict(every)), skip)
    _check_counts(data, given, pools["train"], left_out["train"], "add images or remove the class")
    return given


def _check_counts(
    data: str, given: Given, pool: Pool, left_out: Mapping[str, Counter[str]], remedy: str
) -> None:
    """Each class needs an image to train on, and one for each part that is cut from train.

    Args:
        pool: the training images with those that were left out as damaged.
        left_out: why other files of each class were left out.
        remedy: what to do.
    """
    needed = 1 + (given.validation is None) + (given.test is None)
    counts = np.bincount(given.train.labels, minlength=len(given.classes))
    fewest = int(counts.argmin())
    if counts[fewest] < needed:
        name = given.classes[fewest]
        damaged = Counter({DAMAGED: int((pool.labels == fewest).sum() - counts[fewest])})
        raise UserError(
            f"--data: {data!r}: class {name!r} has too few images to train on and to split "
            f"({counts[fewest]} of at least {needed}{reason_of([left_out.get(name, Counter()), damaged])}); {remedy}"
        )
