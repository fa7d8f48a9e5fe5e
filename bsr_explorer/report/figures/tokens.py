"""Images as a model sees them that drops or merges tokens: a column an image, a row a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from bsr_explorer.report import style

CELL, LABELS = 0.65, 1.5
"""Inches of an image, and of what stands beside the rows."""

DPI = 120
"""Dots an inch: photographs need fewer than lines, and their files are large."""

GREY, FADED = 0.82, 0.9
"""What dropped patches fade to, and how far."""

COLOURED = 0.6
"""How far a merged token's patches take its colour."""

COLOURS = tuple(
    to_rgb(colour)
    for colour in (
        style.BLUE,
        style.ORANGE,
        style.GREEN,
        style.VERMILION,
        style.SKY,
        style.PURPLE,
        style.YELLOW,
    )
)


@dataclass(frozen=True)
class Row:
    """The images after a block.

    Attributes:
        label: what stands beside it.
        places: the token that each patch is in, (n, rows, columns); -1 where there is none any more.
    """

    label: str
    places: NDArray[np.int64]


def draw(images: NDArray[np.float64], rows: Sequence[Row], title: str, file: Path) -> Path:
    """The images, and below them what is left after each block: what was dropped is grey, and the patches of tokens
    that were merged have one colour.

    Args:
        images: (n, S, S, 3), in 0 to 1.
        file: with an ending of ``style.UNDATED``.
    """
    count, lines = len(images), 1 + len(rows)
    size = (LABELS + CELL * count, 0.3 + CELL * lines)
    with style.figure(*size, nrows=lines, ncols=count, squeeze=False, dpi=DPI) as (fig, axes):
        for column, image in enumerate(images):
            axes[0][column].imshow(image)
            for line, row in enumerate(rows, 1):
                axes[line][column].imshow(seen(image, row.places[column]))
        for line, label in enumerate(("image", *(row.label for row in rows))):
            axes[line][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
        for one in axes.flat:
            one.set(xticks=[], yticks=[])
            for side in one.spines.values():
                side.set_visible(False)
        fig.suptitle(title, fontsize=7)
        fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        return style.save(fig, file.parent, file.stem, (file.suffix[1:],))[0]


def seen(image: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """An image (S, S, 3) whose patches stand in tokens, (rows, columns): grey where there is none."""
    side = image.shape[0] // places.shape[0]
    wide = places.repeat(side, 0).repeat(side, 1)
    shown = image[: wide.shape[0], : wide.shape[1]].copy()
    shown[wide < 0] = FADED * GREY + (1 - FADED) * shown[wide < 0]
    there, patches = np.unique(places[places >= 0], return_counts=True)
    for number, place in enumerate(there[patches > 1]):
        of = wide == place
        colour = np.asarray(COLOURS[number % len(COLOURS)])
        shown[of] = COLOURED * colour + (1 - COLOURED) * shown[of].mean()
    return shown
