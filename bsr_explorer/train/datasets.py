"""The data sets that have a name, and where their files lie. Nothing here imports torch.

Any other data set goes by the path of an image folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bsr_explorer.errors import UserError, nearest
from bsr_explorer.train.folders import class_folders

Availability = Literal["embedded", "on disk", "download"]

PROBE_SECONDS = 3.0
"""How long a data set's host may take to answer before it counts as out of reach."""

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""

FASHION_MNIST_FILES = tuple(
    f"{part}-{content}-ubyte" for part in ("train", "t10k") for content in ("images-idx3", "labels-idx1")
)

VALIDATION_NAMES = ("val", "validation")
"""What the validation part of an image folder may be called."""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that has a name.

    Attributes:
        name: what ``--data`` takes.
        classes: how many there are.
        sizes: images to train, validate and test on, where no smaller size is asked for.
        description: one line.
        source: who made it, and where its files are.
        split: where the three parts come from.
        torchvision: its class in ``torchvision.datasets``; empty where there is nothing to download.
        url: a file that the download needs, to see whether the host can be reached.
        unpacked: what lies below the data directory once it is there.
        archives: the downloaded files below the data directory, from which ``unpacked`` can be made.
    """

    name: str
    classes: int
    sizes: tuple[int, int, int]
    description: str
    source: str
    split: str
    torchvision: str = ""
    url: str = ""
    unpacked: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()


_CARVED = "official test; validation is 10% of the official train, stratified"

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            classes=10,
            sizes=(1078, 359, 360),
            description="handwritten digits, 8x8 grey",
            source="UCI, comes with scikit-learn",
            split="60/20/20, stratified",
        ),
        DatasetInfo(
            name="fashion_mnist",
            classes=10,
            sizes=(54_000, 6_000, 10_000),
            description="Zalando's articles of clothing, 28x28 grey",
            source="github.com/zalandoresearch/fashion-mnist; Debian package dataset-fashion-mnist",
            split=_CARVED,
            torchvision="FashionMNIST",
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            unpacked=tuple(f"fashion_mnist/{file}.gz" for file in FASHION_MNIST_FILES),
        ),
        DatasetInfo(
            name="cifar10",
            classes=10,
            sizes=(45_000, 5_000, 10_000),
            description="animals and vehicles, 32x32 colour",
            source="www.cs.toronto.edu/~kriz/cifar.html",
            split=_CARVED,
            torchvision="CIFAR10",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            unpacked=tuple(
                f"cifar-10-batches-py/{file}"
                for file in (*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch", "batches.meta")
            ),
            archives=("cifar-10-python.tar.gz",),
        ),
        DatasetInfo(
            name="cifar100",
            classes=100,
            sizes=(45_000, 5_000, 10_000),
            description="objects and scenes, 32x32 colour",
            source="www.cs.toronto.edu/~kriz/cifar.html",
            split=_CARVED,
            torchvision="CIFAR100",
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            unpacked=tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
            archives=("cifar-100-python.tar.gz",),
        ),
        DatasetInfo(
            name="flowers102",
            classes=102,
            sizes=(1_020, 1_020, 6_149),
            description="Oxford flowers, photographs",
            source="www.robots.ox.ac.uk/~vgg/data/flowers/102",
            split="official",
            torchvision="Flowers102",
            url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
            unpacked=tuple(f"flowers-102/{file}" for file in ("jpg", "imagelabels.mat", "setid.mat")),
            archives=tuple(
                f"flowers-102/{file}" for file in ("102flowers.tgz", "imagelabels.mat", "setid.mat")
            ),
        ),
        DatasetInfo(
            name="pets",
            classes=37,
            sizes=(3_312, 368, 3_669),
            description="Oxford-IIIT breeds of cats and dogs, photographs",
            source="www.robots.ox.ac.uk/~vgg/data/pets",
            split=_CARVED,
            torchvision="OxfordIIITPet",
            url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
            unpacked=tuple(f"oxford-iiit-pet/{folder}" for folder in ("images", "annotations")),
            archives=tuple(f"oxford-iiit-pet/{part}.tar.gz" for part in ("images", "annotations")),
        ),
        DatasetInfo(
            name="food101",
            classes=101,
            sizes=(68_175, 7_575, 25_250),
            description="dishes, photographs of at most 512 pixels",
            source="data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
            split=_CARVED,
            torchvision="Food101",
            url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            unpacked=tuple(f"food-101/{folder}" for folder in ("meta", "images")),
            archives=("food-101.tar.gz",),
        ),
    )
}
"""By name. The order is the order in which they are listed."""

FOLDER = "the path of an image folder: class folders, below train/ (val/, test/) or directly"


def default_data_dir() -> Path:
    """``$BSR_EXPLORER_DATA``, or else ``~/.cache/bsr-explorer/data``."""
    return Path(os.environ.get("BSR_EXPLORER_DATA") or "~/.cache/bsr-explorer/data").expanduser()


def availability(info: DatasetInfo, data_dir: Path) -> Availability:
    """Whether a data set comes with the installation, lies below ``data_dir``, or has to be downloaded."""
    if not info.torchvision:
        return "embedded"
    return "on disk" if is_unpacked(info, data_dir) or has_archives(info, data_dir) else "download"


def list_datasets(data_dir: Path) -> list[dict[str, str | int]]:
    """One row for each name, and one for image folders, to be printed.

    The keys are ``name``, ``classes``, ``train``, ``validation``, ``test`` (numbers of images),
    ``availability``, ``split`` and ``description``.
    """
    rows: list[dict[str, str | int]] = [
        {
            "name": info.name,
            "classes": info.classes,
            **dict(zip(("train", "validation", "test"), info.sizes, strict=True)),
            "availability": availability(info, data_dir),
            "split": info.split,
            "description": info.description,
        }
        for info in DATASETS.values()
    ]
    folder: dict[str, str | int] = {
        "name": "PATH",
        **dict.fromkeys(("classes", "train", "validation", "test"), "-"),
        "availability": "on disk",
        "split": "its own; a part that is missing is 10% of train, stratified",
        "description": FOLDER,
    }
    return [*rows, folder]


def check_data(data: str, data_dir: Path) -> None:
    """Check a value of ``--data`` before any work is done; takes at most ``PROBE_SECONDS``.

    Args:
        data: a name in ``DATASETS`` or the path of an image folder. A name wins; ``./digits`` is a folder.
        data_dir: where the files of the named data sets are, or go.

    Raises:
        UserError: neither a name nor an image folder, or neither on disk nor within reach.
    """
    info = DATASETS.get(data)
    if info is None:
        folder_parts(data)
    elif availability(info, data_dir) == "download" and not _answers(info.url):
        files = info.archives or info.unpacked
        raise UserError(
            f"--data: {data} is not in {data_dir}, and its host {urlsplit(info.url).hostname} cannot be "
            f"reached; put {', '.join(files)} there, or choose digits, which is embedded"
        )


def count_classes(data: str) -> int:
    """Classes of a data set or image folder, without reading an image.

    Raises:
        UserError: see ``folder_parts``.
    """
    info = DATASETS.get(data)
    return info.classes if info else len(class_folders(folder_parts(data)["train"]))


def is_unpacked(info: DatasetInfo, data_dir: Path) -> bool:
    """Whether the files can be read as they are."""
    if info.name == "fashion_mnist":
        return fashion_mnist_folder(data_dir) is not None
    return _all_exist(data_dir, info.unpacked)


def has_archives(info: DatasetInfo, data_dir: Path) -> bool:
    """Whether everything that a download would fetch is there, so that it only has to be unpacked."""
    return bool(info.archives) and _all_exist(data_dir, info.archives)


def fashion_mnist_folder(data_dir: Path) -> Path | None:
    """The first folder that has the four files, packed or not: ours, torchvision's or Debian's."""
    folders = (data_dir / "fashion_mnist", data_dir / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST)
    return next((folder for folder in folders if all(idx_file(folder, f) for f in FASHION_MNIST_FILES)), None)


def idx_file(folder: Path, name: str) -> Path | None:
    """The file of this name, gzipped or not, or None."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def folder_parts(data: str) -> dict[str, Path]:
    """The parts of an image folder that exist: ``train`` always, ``validation`` and ``test`` perhaps.

    Raises:
        UserError: there is no such folder, it has no class folders, or its parts differ in their classes.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        close = nearest(data, DATASETS, count=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        is_not = "is a file, not an image folder" if root.exists() else "is neither a data set nor a folder"
        raise UserError(f"--data: {data!r} {is_not}{hint}; choose from {', '.join(DATASETS)}, or {FOLDER}")
    # A class may be called "train" too; only the folder of a part has folders of its own.
    parts = {"train": root / "train"} if class_folders(root / "train") else {"train": root}
    if parts["train"] != root:
        validation = next((name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
        if validation:
            parts["validation"] = root / validation
        if (root / "test").is_dir():
            parts["test"] = root / "test"
    _check_classes(data, parts)
    return parts


def _check_classes(data: str, parts: dict[str, Path]) -> None:
    classes = class_folders(parts["train"])
    if not classes or classes <= {"train", "test", *VALIDATION_NAMES}:
        raise UserError(f"--data: {data!r} has no folders of classes; --data takes {FOLDER}")
    if len(classes) < 2:
        raise UserError(f"--data: {data!r} has one class, {min(classes)!r}; give it at least 2 class folders")
    for part, folder in parts.items():
        if different := classes ^ class_folders(folder):
            names = ", ".join(repr(name) for name in sorted(different)[:3])
            raise UserError(
                f"--data: {data!r}: {part} and train differ in their classes ({names}); give both the same "
                "class folders"
            )


def _all_exist(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).exists() for name in names)


def _answers(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a server has this file, and says so in time."""
    answered = Event()

    def ask() -> None:
        request = Request(url, method="HEAD", headers={"User-Agent": "bsr-explorer"})
        try:
            with urlopen(request, timeout=seconds):
                answered.set()
        except (OSError, HTTPException):
            return

    # The timeout of a request does not cover the look-up of the host's name, which can take much longer.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
