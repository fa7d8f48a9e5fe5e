"""A small image folder, to be damaged and repaired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


class Pictures:
    """A folder of 40 images in two classes.

    Attributes:
        bad: names of three of them.
    """

    bad = ("a/01.png", "b/00.png", "b/17.png")

    def __init__(self, root: Path) -> None:
        self.root = root
        for label in "ab":
            (root / label).mkdir(parents=True)
            for number in range(20):
                self.write(f"{label}/{number:02}.png")

    def write(self, name: str) -> None:
        """Write an image, the same for the same name."""
        rng = np.random.default_rng(list(name.encode()))
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(self.root / name)

    def damage(self) -> None:
        """Cut the second half of the bad ones off, and leave their heads."""
        for name in self.bad:
            self.write(name)
            content = (self.root / name).read_bytes()
            (self.root / name).write_bytes(content[: len(content) // 2])

    def repair(self, *, remove: bool) -> None:
        """Replace or remove the bad ones."""
        for name in self.bad:
            if remove:
                (self.root / name).unlink()
            else:
                self.write(name)
