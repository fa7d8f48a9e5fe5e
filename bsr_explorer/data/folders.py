"""Folders of images, one folder a class: which of their files are images of which class. Nothing here imports torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bsr_explorer.data.contents import HIDDEN

NO_CLASSES = frozenset(
    {
        *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "lost+found"),
        *("$RECYCLE.BIN", "System Volume Information"),
    }
)
"""Folders that archivers, file systems and Python make. With those whose names start with a dot they are no classes."""


@dataclass(frozen=True)
class Found:
    """What lies in a folder of class folders.

    Attributes:
        classes: their names, in order.
        paths: of the images, class by class.
        labels: the class of each image, as a position in ``classes``.
        left_out: files that are no images, by class and by what they are; see ``Contents``. Those in folders that are
            no classes are under the empty name.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    left_out: dict[str, Counter[str]]


def class_folders(folder: Path) -> set[str]:
    """The names of the class folders below a folder; of none, if there is no such folder."""
    return {entry.name for entry in folder.iterdir() if is_class(entry)} if folder.is_dir() else set()


def is_class(entry: Path) -> bool:
    """Whether this is a folder that is not hidden and not made by a tool."""
    return not _is_hidden(entry.name) and entry.is_dir()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in NO_CLASSES


def scan(folder: Path) -> Found:
    """The images below class folders, at any depth. The order is that of torchvision's ``ImageFolder``."""
    classes = tuple(sorted(class_folders(folder)))
    paths: list[Path] = []
    labels: list[int] = []
    left_out = {"": Counter(_hidden_below(folder))}
    for label, name in enumerate(classes):
        left_out[name] = Counter()
        for path, what in _files(folder / name):
            if what:
                left_out[name][what] += 1
            else:
                paths.append(path.absolute())
                labels.append(label)
    return Found(classes, tuple(paths), tuple(labels), left_out)


def _hidden_below(folder: Path) -> dict[str, int]:
    """Files in the folders that are no classes, by folder."""
    hidden = (entry for entry in folder.iterdir() if _is_hidden(entry.name) and entry.is_dir())
    return {f"{entry.name}/": _count(entry) for entry in hidden}


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a class, and what each is left out for (empty: it is an image)."""
    # Here, for the names of classes need neither Pillow nor NumPy.
    from bsr_explorer.data.reading import extensions

    visited = []
    for place, folders, names in os.walk(folder, followlinks=True):
        for hidden in filter(_is_hidden, folders):
            inside = Path(place, hidden)
            yield from [(inside, f"{hidden}/")] * _count(inside)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        visited.append((place, sorted(names)))
    for place, names in sorted(visited):
        for name in names:
            path = Path(place, name)
            ending = path.suffix.lower()
            if name.startswith("."):
                yield path, HIDDEN
            else:
                yield path, "" if ending in extensions() else ending or "without extension"
