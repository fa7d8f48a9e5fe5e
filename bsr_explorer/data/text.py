"""Text for language models, as bytes: what every Python ships, or text files.

Documents are split, not sequences: no sentence of validation stands in a document that is trained on. Of fewer than
``DOCUMENTS`` documents, the whole text is cut: its last tenth is the test set, the tenth before it validation.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from platform import python_version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bsr_explorer.data.contents import Contents
from bsr_explorer.data.places import is_text, text_files
from bsr_explorer.errors import UserError

BYTES = 256
"""Tokens that there are: a vocabulary of at least so many."""

DOCUMENTS = 10
"""Documents of which some are held out whole."""

HELD_OUT = 0.1
"""The share of validation, and of the test set."""

BETWEEN = "\n\n"
"""What stands between two documents."""


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    """A part of a text. Items are the tokens of a sequence (T,), and of each the next one (T,), int64.

    Attributes:
        rows: (N, T + 1) bytes, uint8.
    """

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        row = self.rows[item].long()
        return row[:-1], row[1:]


@dataclass(frozen=True)
class Texts:
    """A text in three parts, as ``splits.Splits`` has images.

    Attributes:
        train, validation, test: see ``Splits``.
        description: names the parts, their sizes and where they come from, in one line.
        left_out: files of the folder that are in no part, by extension.
    """

    train: Sequences
    validation: Sequences
    test: Sequences
    description: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def contents(self) -> Contents:
        """What was left out; text has no classes."""
        return Contents(left_out=self.left_out)


def load_texts(
    data: str,
    *,
    length: int,
    train_size: int | None = None,
    val_size: int | None = None,
    split_seed: int = 0,
) -> Texts:
    """Load a text, and cut it into sequences.

    The split depends on ``split_seed`` alone. Sequences do not overlap; a smaller ``train_size`` or ``val_size`` is a
    subset of a larger one.

    Args:
        data: ``text`` or ``python`` (see ``catalogue.TEXTS``), the path of a text file, or of a folder of ``.txt``
            files, each of which is a document.
        length: tokens of a sequence, T.
        train_size, val_size: sequences; None: all.
        split_seed: of which documents are held out, and of the subsets.

    Raises:
        UserError: files that cannot be read, too little text, or a size that is out of range.
    """
    documents, name, left_out = _documents(data)
    parts = _parted(documents, split_seed)
    rows = [_rows(part, length) for part in parts]
    for part, found in zip(("train", "validation", "test"), rows, strict=True):
        if not len(found):
            raise UserError(
                f"--data: {data!r}: its {part} part has no {length + 1} bytes for a sequence of {length} tokens; give "
                "more text, or a smaller --sequence-length"
            )
    whole = [len(found) for found in rows]
    rows[0] = _subset(rows[0], train_size, name, "--train-size", split_seed)
    rows[1] = _subset(rows[1], val_size, name, "--val-size", split_seed)
    sizes = " / ".join(
        f"{part} {len(found)}" + (f" of {count}" if len(found) < count else "")
        for part, found, count in zip(("train", "validation", "test"), rows, whole, strict=True)
    )
    how = (
        f"{len(documents)} documents, a tenth of them each held out, split seed {split_seed}"
        if len(documents) >= DOCUMENTS
        else "the last two tenths held out"
        + (f", split seed {split_seed}" if sum(whole) > sum(map(len, rows)) else "")
    )
    described = f"{name}: {sizes} sequences of {length} bytes, {how}"
    train, validation, test = map(Sequences, rows)
    return Texts(train, validation, test, described, left_out)


def _documents(data: str) -> tuple[list[bytes], str, Mapping[str, int]]:
    """The documents of a text, its name, and the files that are none, by extension.

    Raises:
        UserError: it is no text, or cannot be read.
    """
    if data in OWN:
        return _own(data), f"{data} of Python {python_version()}", {}
    if not is_text(data):
        raise UserError(f"--data: {data!r} is no text")
    files, left_out = text_files(data)
    try:
        return [file.read_bytes() for file in files], Path(data).expanduser().resolve().name, left_out
    except OSError as error:
        raise UserError(f"--data: {error.filename} cannot be read: {error.strerror}") from None


def _topics() -> list[bytes]:
    of_topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return [of_topics[name].encode() for name in sorted(of_topics)]


def _sources() -> list[bytes]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_bytes() for path in sorted(folder.glob("*.py"))]


OWN: dict[str, Callable[[], list[bytes]]] = {"text": _topics, "python": _sources}
"""How what Python ships is read, by the names of ``catalogue.TEXTS``."""


@lru_cache(maxsize=2)
def _own(name: str) -> list[bytes]:
    # Remembered, because a search asks for the same data in every trial.
    return OWN[name]()


def _parted(documents: list[bytes], seed: int) -> list[bytes]:
    """Train, validation and test."""
    between = BETWEEN.encode()
    if len(documents) < DOCUMENTS:
        text = between.join(documents)
        ends = [round(len(text) * (1 - share)) for share in (2 * HELD_OUT, HELD_OUT)]
        return [text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :]]
    held = max(1, round(HELD_OUT * len(documents)))
    order = np.random.default_rng(seed).permutation(len(documents))
    parts = order[2 * held :], order[held : 2 * held], order[:held]
    return [between.join(documents[place] for place in sorted(part)) for part in parts]


def _rows(text: bytes, length: int) -> NDArray[np.uint8]:
    """(N, length + 1): each byte but a row's last predicts the next one."""
    numbers = np.frombuffer(text, dtype=np.uint8)
    rows = len(numbers) // (length + 1)
    return numbers[: rows * (length + 1)].reshape(rows, length + 1).copy()


def _subset(rows: NDArray[np.uint8], size: int | None, name: str, flag: str, seed: int) -> NDArray[np.uint8]:
    if size is None:
        return rows
    if size > len(rows):
        raise UserError(f"{flag}: {size} sequences of {name} are out of range; choose from 1 to {len(rows)}")
    return rows[np.random.default_rng(seed).permutation(len(rows))[:size]]
