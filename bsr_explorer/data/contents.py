"""What a data set holds: its classes, the images of each, and the files that were left out, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FEW = 12
"""Classes that a line names with the images of each."""

HIDDEN, DAMAGED, UNLABELLED = "hidden", "damaged", "unlabelled"
"""What files are left out for, beside their extension and the folder that they are in; cells are, too."""


@dataclass(frozen=True)
class Contents:
    """What was used of a data set.

    Attributes:
        classes: images of each class, by part (``train``, ``validation``, ``test``) and the name of the class.
        left_out: files in class folders that are no images, by extension (``.txt``); that are ``hidden``,
            ``damaged`` or ``unlabelled``; and those in folders that are no classes, by the folder's name with a slash.
    """

    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """The classes and the training images of each, and what was left out."""
        left_out = self.of_left_out()
        return "; ".join(part for part in (self.of_classes(), left_out and f"left out: {left_out}") if part)

    def of_classes(self) -> str:
        """The classes: all of a few, the first of many."""
        train = self.classes.get("train", {})
        if not train:
            return ""
        if len(train) <= FEW:
            each = ", ".join(f"{name} {count:,}" for name, count in train.items())
            return f"{len(train)} classes, with their training images: {each}"
        least, most = min(train.values()), max(train.values())
        images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        return f"{len(train)} classes of {images} training images each: {', '.join(list(train)[:3])}, …"

    def of_left_out(self) -> str:
        """What was left out, or nothing."""
        return ", ".join(self._left_out())

    def _left_out(self) -> Iterator[str]:
        for what, count in sorted(self.left_out.items()):
            yield f"{count:,} in {what}" if what.endswith("/") else f"{count:,} {what}"
