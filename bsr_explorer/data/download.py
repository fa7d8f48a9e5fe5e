"""Data sets that torchvision downloads."""

from __future__ import annotations

import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray

from bsr_explorer.data.catalogue import DatasetInfo
from bsr_explorer.data.places import is_unpacked
from bsr_explorer.data.pool import Arrays, Files, Given, Pool, as_given
from bsr_explorer.errors import UserError, one_line

DOWNLOAD_TIMEOUT = 30.0
"""Seconds of silence after which a download has failed."""

_OFFICIAL: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10": {"train": {"train": True}, "test": {"train": False}},
    "cifar100": {"train": {"train": True}, "test": {"train": False}},
    "flowers102": {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}},
    "pets": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "food101": {"train": {"split": "train"}, "test": {"split": "test"}},
}
"""How torchvision is asked for the parts that it has."""


def load_torchvision(info: DatasetInfo, data_dir: Path) -> Given:
    datasets = {part: fetch(info, data_dir, how) for part, how in _OFFICIAL[info.name].items()}
    pools = {
        part: Pool((info.name, data_dir, part), *_contents(dataset, data_dir))
        for part, dataset in datasets.items()
    }
    return as_given(info.name, datasets["train"].classes, pools)


def _contents(dataset: Any, root: Path) -> tuple[Arrays | Files, NDArray[np.int64]]:
    """A torchvision data set's images and labels, none of which is decoded."""
    if hasattr(dataset, "data"):
        return Arrays(dataset.data), np.asarray(dataset.targets, dtype=np.int64)
    # The data sets of photographs have no public names for these, and their items decode the image.
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return Files(root, tuple(map(Path, paths))), np.asarray(dataset._labels, dtype=np.int64)


def fetch(info: DatasetInfo, data_dir: Path, how: dict[str, Any]) -> Any:
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
            f"--data: {info.name} {what} ({one_line(error)}); {remedy}, or choose digits, which is embedded"
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
