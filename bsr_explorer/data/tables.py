"""Data sets of the Hub, read: which columns of their tables are images and labels, and the pools of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.data import hub
from bsr_explorer.data.catalogue import DatasetInfo, HubCopy
from bsr_explorer.data.cells import Cell, Column, read_column, readable
from bsr_explorer.data.contents import UNLABELLED
from bsr_explorer.data.hub import Snapshot
from bsr_explorer.data.pool import Files, Given, Pool, as_given
from bsr_explorer.errors import UserError, require

IMAGE, LABEL = "Image", "ClassLabel"
"""The Hub's types of the columns that are read."""


@dataclass(frozen=True)
class Declared:
    """What a table says of itself.

    Attributes:
        image: the first column of images.
        label: the column of labels, 0, 1, …; of several, the first of those with most classes.
        classes: their names.
    """

    image: str
    label: str
    classes: tuple[str, ...]


def checked(data: str) -> tuple[Snapshot, Declared]:
    """A data set of the Hub, found (or downloaded) and understood, of which no image and no label has been read.

    Args:
        data: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/CONFIG``.

    Raises:
        UserError: it is not to be had (see ``hub.find``), declares no images or labels, or its files differ in these;
            or pyarrow is not installed.
    """
    require("pyarrow", f"--data: {data}", "hub")
    snapshot = hub.find(data)
    first, *others = (file for _, files in snapshot.parts for file in files)
    declared = _declared(data, first)
    for file in others:
        if _declared(data, file) != declared:
            one, other = first.relative_to(snapshot.root), file.relative_to(snapshot.root)
            raise UserError(
                f"--data: {data!r}: {one} and {other} differ in their columns or classes; choose another data set"
            )
    return snapshot, declared


def checked_copy(info: DatasetInfo) -> tuple[Snapshot, Declared, HubCopy]:
    """The copy of a named data set in the Hub's cache, likewise.

    Raises:
        UserError: see ``checked``; or it has other classes or parts than the data set.
    """
    assert info.copy is not None
    data = hub.PREFIX + info.copy.repository
    snapshot, declared = checked(data)
    parts = [part for part, _ in snapshot.parts]
    if len(declared.classes) != info.classes or set(parts) != {"train", info.copy.test}:
        raise UserError(
            f"--data: {data} in the Hub's cache is no copy of {info.name}: it has {len(declared.classes)} classes and "
            f"the parts {', '.join(parts)}; delete {snapshot.root}, or choose {data}"
        )
    return snapshot, declared, info.copy


def load(data: str) -> Given:
    """A data set of the Hub, with its classes and parts. Rows without a label are left out.

    Raises:
        UserError: see ``checked``; or no label of the training part, one of no class, or a file that cannot be read.
    """
    return _load(*checked(data))


def load_copy(info: DatasetInfo) -> Given:
    """A named data set from the Hub's cache, with the classes and the parts that it has from torchvision.

    Raises:
        UserError: see ``checked_copy`` and ``load``.
    """
    snapshot, declared, how = checked_copy(info)
    given = _load(snapshot, declared)
    names = [how.spelling.get(name, name) for name in given.classes]
    classes = sorted(names) if how.alphabetical else names
    place = np.asarray([classes.index(name) for name in names], dtype=np.int64)
    train, test = (replace(pool, labels=place[pool.labels]) for pool in (given.train, given.pools[how.test]))
    return Given(f"{info.name} of {given.name}", tuple(classes), train, test=test, left_out=given.left_out)


@lru_cache(maxsize=2)
def _load(snapshot: Snapshot, declared: Declared) -> Given:
    # Remembered, because a search asks for the same data in every trial.
    pools, unlabelled = {}, 0
    for part, files in snapshot.parts:
        cells: list[Cell] = []
        labels = []
        for file in files:
            every = _labels(snapshot.data, file, declared)
            rows = np.flatnonzero(every >= 0)
            column = Column(file, declared.image)
            cells += [Cell(column, row) for row in rows.tolist()]
            labels.append(every[rows])
            unlabelled += len(every) - len(rows)
        if cells:
            pools[part] = Pool((snapshot, part), Files(snapshot.root, tuple(cells)), np.concatenate(labels))
    if "train" not in pools:
        raise UserError(
            f"--data: {snapshot.data!r}: no image of its training part has a label; choose another data set"
        )
    given = as_given(snapshot.name, declared.classes, pools)
    return replace(given, left_out={UNLABELLED: unlabelled}) if unlabelled else given


def _labels(data: str, file: Path, declared: Declared) -> NDArray[np.int64]:
    """(N,) the label of each row; negative where there is none, as the Hub says it."""
    import pyarrow.compute

    column = read_column(file, declared.label).cast("int64")
    found: NDArray[np.int64] = pyarrow.compute.fill_null(column, -1).to_numpy()
    if len(found) and found.max() >= len(declared.classes):
        raise UserError(
            f"--data: {data!r}: {file.name} has the label {found.max()} in {declared.label!r}, which has "
            f"{len(declared.classes)} classes; choose another data set"
        )
    return found


def _declared(data: str, file: Path) -> Declared:
    """What the schema's metadata says, which ``datasets`` writes into each file."""
    import pyarrow.parquet
    from pyarrow import types

    with readable(file):
        schema = pyarrow.parquet.read_schema(file)
    features = _features(schema.metadata or {})
    kinds = {field.name: features.get(field.name, {}).get("_type") for field in schema}
    classes = {
        field.name: tuple(map(str, features[field.name].get("names") or ()))
        for field in schema
        if kinds[field.name] == LABEL and types.is_integer(field.type)
    }
    images = [
        field.name
        for field in schema
        if kinds[field.name] == IMAGE
        and types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
    ]
    label = max(classes, key=lambda name: len(classes[name]), default="")
    for what, there in (
        (f"an {IMAGE}", images),
        (f"a {LABEL} of at least 2 classes", classes.get(label, ())[1:]),
    ):
        if not there:
            columns = ", ".join(f"{field.name} ({kinds[field.name] or field.type})" for field in schema)
            raise UserError(
                f"--data: {data!r}: no column of {file.name} is declared {what}; there are {columns}; choose a data "
                "set of images and classes"
            )
    return Declared(images[0], label, classes[label])


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """The features that are declared, by column; of none where nothing is said."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
