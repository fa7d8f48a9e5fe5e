"""One look for every figure: colours that colour-blind readers tell apart, and a marker a method."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bsr_explorer.errors import unknown
from bsr_explorer.files import whole
from bsr_explorer.ledger import NAMES

mpl.use("Agg")

from matplotlib import pyplot as plt

# Okabe and Ito's palette.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)

WINE, GREY = "#882255", "#888888"
"""Two more, from Tol's palette."""

FAMILY: dict[str, tuple[str, str]] = {
    "bsr": (BLUE, "o"),
    "last": (ORANGE, "s"),
    "linear": (GREEN, "^"),
    "bitfit": (PURPLE, "D"),
    "full": (VERMILION, "*"),
    "checkpoint": (SKY, "v"),
    "offload": (YELLOW, "P"),
    "backrazor": (WINE, "p"),
    "mesa": (GREY, "h"),
}
"""Colour and marker of each method, the same in every figure."""

KIN: dict[str, tuple[str, str]] = {
    "lora": (BLUE, "X"),
    "lora_fa": (BLUE, "<"),
    "dora": (BLUE, ">"),
    "vera": (BLUE, "d"),
    "paca": (ORANGE, "d"),
    "apla": (ORANGE, "8"),
    "spt": (ORANGE, "<"),
    "ia3": (GREEN, "X"),
    "adapter": (GREEN, "d"),
    "vpt": (GREEN, "8"),
    "lst": (PURPLE, "X"),
    "dtl": (PURPLE, "<"),
    "sherl": (PURPLE, ">"),
    "losa": (PURPLE, "d"),
    "repnet": (PURPLE, "8"),
    "tinytl": (GREEN, "<"),
    "velora": (GREY, "<"),
    "wtacrs": (GREY, ">"),
    "approxbp": (WINE, "8"),
    "asi": (GREY, "X"),
    "wasi": (GREY, "d"),
    "msln": (WINE, "d"),
    "gradual": (ORANGE, ">"),
    "lisa": (SKY, "X"),
    "slimfit": (SKY, "<"),
    "autofreeze": (SKY, ">"),
    "alast": (SKY, "d"),
    "dropbp": (SKY, "8"),
}
"""The same of methods that share a colour with their kin: what brings parameters, side networks, what stores tensors
otherwise, what differs from step to step."""

SPARE = tuple(product(("#332288", "#117733", "#999933", "#AA4499", "#44AA99"), ("X", "<", ">", "d", "8")))
"""Looks of methods that have no line of their own above: Tol's colours, and markers that are left."""

KIND: dict[str, tuple[str, str]] = {
    "parameter": (SKY, NAMES["parameter"]),
    "gradient": (ORANGE, NAMES["gradient"]),
    "optimizer": (YELLOW, NAMES["optimizer"]),
    "saved": (BLUE, NAMES["saved"]),
    "input": (PURPLE, NAMES["input"]),
}
"""Colour and label of each kind of memory that a step holds, in the order that they are stacked."""

ALIVE: dict[str, tuple[str, str]] = {**KIND, "transient": (GREY, NAMES["transient"])}
"""The same of all that is alive at a moment of a step."""


def family(method: str) -> str:
    """The names in a method's expression, without their arguments: ``bsr+mesa`` of ``bsr(fuse=False)+mesa()``."""
    return "+".join(part.split("(")[0].strip() for part in _parts(method))


def order(family: str) -> tuple[int, str]:
    """Where a family stands in a legend."""
    first = family.split("+")[0]
    known = [*FAMILY, *KIN]
    return (known.index(first) if first in known else len(known), family)


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method, given by its expression or its family, the same in every figure.

    Of methods composed: the colour of the first, and the marker of the last.
    """
    looks = [_look(part.split("(")[0].strip()) for part in _parts(method)]
    return looks[0][0], looks[-1][1]


def _look(name: str) -> tuple[str, str]:
    return FAMILY.get(name) or KIN.get(name) or SPARE[zlib.crc32(name.encode()) % len(SPARE)]


def _parts(method: str) -> list[str]:
    """The expression at each ``+`` that is not within parentheses."""
    parts, depth = [""], 0
    for letter in method:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "+" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


SCREEN: Mapping[str, float] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
"""Sizes of text where no venue says otherwise."""


@dataclass(frozen=True)
class Page:
    """What figures are made for.

    Attributes:
        full: width of the text, inches; None: each figure as wide as it asks for.
        half: of one of two columns; where there is but one, the width of the text.
        fonts: settings of matplotlib for sizes of text.
    """

    full: float | None = None
    half: float | None = None
    fonts: Mapping[str, float] = field(default_factory=lambda: SCREEN)

    def width(self, asked: float) -> float:
        """Inches that a figure gets which asks for so many."""
        return (self.half if asked <= HALF else self.full) or asked


HALF = 3.6
"""Figures that ask for so many inches at most go into one column of two."""

VENUES: dict[str, tuple[str, str, str]] = {
    "aaai": ("aaai2024_full", "aaai2024_half", "aaai2024"),
    "aistats": ("aistats2023_full", "aistats2023_half", "aistats2023"),
    "cvpr": ("cvpr2024_full", "cvpr2024_half", "cvpr2024"),
    "eccv": ("eccv2024", "eccv2024", "eccv2024"),
    "iclr": ("iclr2024", "iclr2024", "iclr2024"),
    "icml": ("icml2024_full", "icml2024_half", "icml2024"),
    "jmlr": ("jmlr2001", "jmlr2001", "jmlr2001"),
    "neurips": ("neurips2024", "neurips2024", "neurips2024"),
    "tmlr": ("tmlr2023", "tmlr2023", "tmlr2023"),
    "uai": ("uai2023_full", "uai2023_half", "uai2023"),
}
"""Whose pages figures can be made for: tueplots' widths of the text and of a column, and its sizes of text."""

_page: ContextVar[Page | None] = ContextVar("page", default=None)


def page_of(venue: str) -> Page:
    """The page of a venue.

    Raises:
        UserError: unknown venue.
    """
    from tueplots import figsizes, fontsizes

    if venue not in VENUES:
        raise unknown("--venue", venue, VENUES)
    full, half, fonts = VENUES[venue]
    width = {name: getattr(figsizes, name)()["figure.figsize"][0] for name in (full, half)}
    return Page(width[full], width[half], getattr(fontsizes, fonts)())


@contextmanager
def made_for(page: Page) -> Iterator[None]:
    """Make figures for a page."""
    token = _page.set(page)
    try:
        yield
    finally:
        _page.reset(token)


@contextmanager
def figure(width: float, height: float, **subplots: Any) -> Iterator[tuple[Any, Any]]:
    """A figure in our style; yields (figure, axes) and closes it.

    Args:
        width, height: inches, unless the page says otherwise.
        subplots: what ``matplotlib.pyplot.subplots`` takes.
    """
    page = _page.get() or Page()
    rc = {
        **page.fonts,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "pdf.fonttype": 42,
        "svg.hashsalt": "bsr-explorer",
        "figure.dpi": 200,
    }
    with plt.rc_context(rc):
        fig, axes = plt.subplots(figsize=(page.width(width), height), layout="constrained", **subplots)
        try:
            yield fig, axes
        finally:
            plt.close(fig)


UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}
"""What is left out of files of each format, so that they change only if the figure does."""


def save(fig: Any, folder: Path, name: str, kinds: Iterable[str] | None = None) -> list[Path]:
    """Write PNG, PDF and SVG, or some of them, each whole, and byte for byte the same when nothing changed; returns the
    paths."""
    paths = []
    for kind in UNDATED if kinds is None else kinds:
        paths.append(folder / f"{name}.{kind}")
        with whole(paths[-1]) as file:
            fig.savefig(file, format=kind, metadata=UNDATED[kind])
    return paths
