"""Where the files of data sets lie."""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from bsr_explorer.data import hub
from bsr_explorer.data.catalogue import (
    DATASETS,
    DEBIAN_FASHION_MNIST,
    FASHION_MNIST_FILES,
    FOLDER,
    HUB,
    TEXT,
    TEXTS,
    DatasetInfo,
)
from bsr_explorer.data.expression import MADE, TASKS, made_in, tasks_in
from bsr_explorer.data.folders import class_folders
from bsr_explorer.data.reach import answers
from bsr_explorer.errors import UserError, nearest, require

Availability = Literal["embedded", "on disk", "hub cache", "download"]

VALIDATION_NAMES = ("val", "validation")
"""What the validation part of an image folder may be called."""


def default_data_dir() -> Path:
    """``$BSR_EXPLORER_DATA``, or else ``~/.cache/bsr-explorer/data``."""
    return Path(os.environ.get("BSR_EXPLORER_DATA") or "~/.cache/bsr-explorer/data").expanduser()


def availability(info: DatasetInfo, data_dir: Path) -> Availability:
    """Whether a data set comes with the installation, lies below ``data_dir``, or else in the cache of the Hugging Face
    Hub where that can be read, or has to be downloaded."""
    if not info.torchvision:
        return "embedded"
    if is_unpacked(info, data_dir) or has_archives(info, data_dir):
        return "on disk"
    return "hub cache" if _in_hub_cache(info) and find_spec("pyarrow") else "download"


def _in_hub_cache(info: DatasetInfo) -> bool:
    return info.copy is not None and hub.in_cache(info.copy.repository)


def list_datasets(data_dir: Path) -> list[dict[str, str | int]]:
    """One row for each name, one for image folders, one for the Hugging Face Hub, and one for each way to make data of
    others, to be printed.

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
    others: list[dict[str, str | int]] = [
        {
            "name": name,
            **dict.fromkeys(("classes", "train", "validation", "test"), "-"),
            "availability": where,
            "split": "its own; a part that is missing is 10% of train, stratified",
            "description": what,
        }
        for name, where, what in (("PATH", "on disk", FOLDER), (f"{hub.PREFIX}…", "hub cache", HUB))
    ]
    composed: list[dict[str, str | int]] = [
        {
            "name": name,
            **dict.fromkeys(("classes", "train", "validation", "test"), "-"),
            "availability": "-",
            "split": "as those that it is made of",
            "description": what,
        }
        for name, what in (
            *((f"{name}({made.of or 'NAME'})", made.summary) for name, made in MADE.items()),
            (f"{TASKS}(NAME, NAME, …)", "several tasks, a head for each"),
        )
    ]
    texts: list[dict[str, str | int]] = [
        {
            "name": name,
            **dict.fromkeys(("classes", "train", "validation", "test"), "-"),
            "availability": where,
            "split": "80/10/10, by documents",
            "description": f"for language models: {what}",
        }
        for name, where, what in (
            *((name, "embedded", what) for name, what in TEXTS.items()),
            ("PATH.txt", "on disk", TEXT),
        )
    ]
    return [*rows, *others, *composed, *texts]


def is_text(data: str) -> bool:
    """Whether a value of ``--data`` is text: a name in ``TEXTS``, a ``.txt`` file, or a folder that holds some."""
    path = Path(data).expanduser()
    if data in TEXTS or path.suffix.lower() == ".txt":
        return True
    return data not in DATASETS and path.is_dir() and any(path.glob("*.txt"))


def text_files(data: str) -> tuple[list[Path], dict[str, int]]:
    """The files of a text of one's own, by name, and the other files of its folder, by extension.

    Raises:
        UserError: there is no such file.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()]
        others = Counter(file.suffix or "no extension" for file in files if file.suffix.lower() != ".txt")
        return [file for file in files if file.suffix.lower() == ".txt"], dict(others)
    if not path.is_file():
        raise UserError(f"--data: there is no file {data!r}; choose from {', '.join(TEXTS)}, or {TEXT}")
    return [path], {}


def check_kind(data: str, model: str, text: bool) -> None:
    """Refuse text for a model of images, and images for a language model.

    Args:
        model: its name.
        text: whether it takes text.

    Raises:
        UserError: it says what goes with the model.
    """
    if text and not is_text(data):
        raise UserError(
            f"--data: {model} is a language model, and {data!r} is no text; choose {', '.join(TEXTS)}, or {TEXT}"
        )
    if not text and is_text(data):
        raise UserError(
            f"--data: {data!r} is text, and {model} takes images; choose from {', '.join(DATASETS)}, {FOLDER}, or a "
            "language model, such as --model llama_tiny"
        )


def check_data(data: str, data_dir: Path) -> None:
    """Check a value of ``--data`` before any work is done; takes at most ``PROBE_SECONDS``, and the time to download a
    data set of the Hugging Face Hub that is not in its cache.

    Args:
        data: a name in ``DATASETS``, ``hub:OWNER/NAME`` or the path of an image folder, or an expression of them (see
            ``expression``). A name wins; ``./digits`` is a folder.
        data_dir: where the files of the named data sets are, or go.

    Raises:
        UserError: none of these, or neither on disk nor within reach.
    """
    if (tasks := tasks_in(data)) is not None:
        for member in tasks.members:
            if is_text(member):
                raise UserError(
                    f"--data: {member!r} in {data!r} is text, and tasks are of images; leave it out, or choose from "
                    f"{', '.join(DATASETS)}, or {FOLDER}"
                )
            check_data(member, data_dir)
        return
    if (making := made_in(data)) is not None:
        check_data(making[1], data_dir)
        return
    info = DATASETS.get(data)
    if data.startswith(hub.PREFIX):
        from bsr_explorer.data import tables  # here, for no other data set needs NumPy to be checked

        tables.checked(data)
    elif is_text(data):
        if data not in TEXTS:
            text_files(data)
    elif info is None:
        folder_parts(data)
    elif (where := availability(info, data_dir)) == "hub cache":
        from bsr_explorer.data import tables

        tables.checked_copy(info)
    elif where == "download" and not answers(info.url):
        if _in_hub_cache(info):
            require("pyarrow", f"--data: {data}, which lies in the Hub's cache,", "hub")
        files = info.archives or info.unpacked
        copy = f", or {info.copy.repository} into the Hub's cache" if info.copy else ""
        raise UserError(
            f"--data: {data} is not in {data_dir}, and its host {urlsplit(info.url).hostname} cannot be "
            f"reached; put {', '.join(files)} there{copy}, or choose digits, which is embedded"
        )


def classes_of(data: str) -> tuple[int, ...]:
    """Classes of each task of the data: one number, where it is one data set. No image is read.

    Raises:
        UserError: see ``count_classes``.
    """
    tasks = tasks_in(data)
    return tuple(count_classes(member) for member in ([data] if tasks is None else tasks.members))


def count_classes(data: str) -> int:
    """Classes of data, of all its tasks together, without reading an image; of text, 1: nothing is classified.

    Raises:
        UserError: see ``folder_parts`` and ``tables.checked``.
    """
    if (tasks := tasks_in(data)) is not None:
        return sum(map(count_classes, tasks.members))
    if (making := made_in(data)) is not None:
        return len(MADE[making[0]].classes(count_classes(making[1])))
    if is_text(data):
        return 1
    if data.startswith(hub.PREFIX):
        from bsr_explorer.data import tables

        return len(tables.checked(data)[1].classes)
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
        raise UserError(
            f"--data: {data!r} {is_not}{hint}; choose from {', '.join(DATASETS)}, or {FOLDER}, or {HUB}"
        )
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
