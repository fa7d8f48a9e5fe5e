"""Data sets of the Hugging Face Hub: which of their files lie in the machine's cache, or go there. Nothing here imports
torch, and what only the Hub needs is imported when it is asked for.

``huggingface_hub`` and ``datasets`` (from 3.0) put what they download into this cache. Arrow files that ``datasets``
makes of it lie elsewhere and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bsr_explorer.data.reach import answers
from bsr_explorer.errors import UserError, one_line

PREFIX = "hub:"
"""What the name of a data set of the Hub begins with."""

DEFAULT = "default"
"""The Hub's name for a configuration whose files are in no folder of their own."""

_NAME = re.compile(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:/(.+))?")

_FILE = re.compile(
    r"(?:(?P<folder>.+)/)?(?P<split>train|validation|valid|val|test)(?:-\d+-of-(?P<count>\d+)[^/]*)?\.parquet"
)

_PARTS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}

Parts = Mapping[str, list[str]]
"""Names of files, by part."""


@dataclass(frozen=True)
class Snapshot:
    """A data set of the Hub, as it lies in the cache.

    Attributes:
        data: what ``--data`` takes for it.
        name: repository, configuration where it has a name, and revision, which says what lies there.
        root: the folder that its files are named from.
        parts: the Parquet files of each part, in order.
    """

    data: str
    name: str
    root: Path
    parts: tuple[tuple[str, tuple[Path, ...]], ...]


def find(data: str) -> Snapshot:
    """A data set of the Hub, from the cache; it is downloaded if it is not there.

    Args:
        data: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/CONFIG``.

    Raises:
        UserError: no such name, several configurations to choose from, no Parquet files of a training part, or neither
            in the cache nor within reach.
    """
    match = _NAME.fullmatch(data)
    if match is None:
        raise UserError(
            f"--data: {data!r} names no data set of the Hub; write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/CONFIG"
        )
    repository, wanted = match[1], match[2] or ""
    there = (root for root, found in _cached(repository) if (wanted in found if wanted else found))
    root = next(there, None) or _download(data, repository, wanted)
    configuration, parts = _chosen(data, _whole(_files(root)), wanted)
    named = repository if configuration == DEFAULT else f"{repository}/{configuration}"
    files = tuple(
        (part, tuple(root / name for name in parts[part]))
        for part in ("train", "validation", "test")
        if part in parts
    )
    return Snapshot(data, f"{named}@{root.name[:7]}", root, files)


def in_cache(repository: str) -> bool:
    """Whether a configuration of a data set lies in the cache as a whole."""
    return any(found for _, found in _cached(repository))


def _cached(repository: str) -> list[tuple[Path, dict[str, Parts]]]:
    """The revisions of a data set that the cache has, and the configurations of each: that of the branch ``main``, then
    the newest.

    What is downloaded by a revision's hash, as ``datasets`` does, is no branch's.
    """
    from huggingface_hub import constants

    folder = constants.REPO_ID_SEPARATOR.join(("datasets", *repository.split("/")))
    cache = Path(constants.HF_HUB_CACHE, folder)
    head, snapshots = cache / "refs" / "main", cache / "snapshots"
    try:
        main = head.read_text().strip() if head.is_file() else ""
        roots = snapshots.iterdir() if snapshots.is_dir() else ()
        ordered = sorted(roots, key=lambda root: (root.name != main, -root.stat().st_mtime))
        return [(root, _whole(_files(root))) for root in ordered]
    except OSError:  # what may not be looked at cannot be read
        return []


def _files(root: Path) -> list[str]:
    """The names of a revision's Parquet files that are there; one without its blob is not."""
    return [path.relative_to(root).as_posix() for path in root.rglob("*.parquet") if path.is_file()]


def _whole(names: Iterable[str]) -> dict[str, Parts]:
    """The parts of each configuration that has one to train on, and of whose files none is missing."""
    found: dict[str, dict[str, list[str]]] = {}
    counts: dict[str, set[tuple[str, int]]] = {}
    for name in sorted(names):
        if match := _FILE.fullmatch(name):
            folder = (match["folder"] or "data").removeprefix("data/")
            folder = DEFAULT if folder == "data" else folder
            part = _PARTS[match["split"]]
            found.setdefault(folder, {}).setdefault(part, []).append(name)
            counts.setdefault(folder, set()).add((part, int(match["count"] or 1)))
    return {
        folder: parts
        for folder, parts in found.items()
        if "train" in parts and counts[folder] == {(part, len(files)) for part, files in parts.items()}
    }


def _chosen(data: str, found: Mapping[str, Parts], wanted: str) -> tuple[str, Parts]:
    """The configuration that is wanted, or the only one."""
    if not found:
        raise UserError(
            f"--data: {data!r} has no training images in Parquet (train-00000-of-00001.parquet, in data/ or in the "
            "folder of a configuration); choose a data set that has"
        )
    if wanted in found:
        return wanted, found[wanted]
    if wanted or len(found) > 1:
        what = f"has no configuration {wanted!r}" if wanted else "has several configurations"
        base = data.removesuffix(f"/{wanted}")
        raise UserError(
            f"--data: {data!r} {what}; choose from {', '.join(f'{base}/{name}' for name in found)}"
        )
    return next(iter(found.items()))


def _download(data: str, repository: str, wanted: str) -> Path:
    """The folder of a data set's newest revision, whose files of one configuration are put there."""
    from huggingface_hub import HfApi, constants, snapshot_download

    missing = f"{data} is not in the Hub's cache, {constants.HF_HUB_CACHE}, or not all of it"
    others = "set HF_HOME to a cache that has it, or choose digits, which is embedded"
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--data: {missing}, and HF_HUB_OFFLINE is set; unset it, {others}")
    if not answers(constants.ENDPOINT):
        raise UserError(
            f"--data: {missing}, and the Hub cannot be reached ({constants.ENDPOINT}); download it elsewhere with "
            f"'hf download {repository} --repo-type dataset', {others}"
        )
    try:
        names = HfApi().list_repo_files(repository, repo_type="dataset")
        _, parts = _chosen(data, _whole(names), wanted)
        files = [name for part in parts.values() for name in part]
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=files))
    except UserError:
        raise
    except Exception as error:  # which errors the client raises depends on its release
        raise UserError(
            f"--data: {missing}, and cannot be downloaded ({type(error).__name__}: {one_line(error)[:160]}); {others}"
        ) from error
