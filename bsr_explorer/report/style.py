"""One look for every figure: colours that colour-blind readers tell apart, and a marker a method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

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

OTHER = (BLACK, "X")

KIND: dict[str, tuple[str, str]] = {
    "parameter": (SKY, "parameters"),
    "gradient": (ORANGE, "gradients"),
    "optimizer": (YELLOW, "optimiser state"),
    "saved": (BLUE, "saved activations"),
    "input": (PURPLE, "input"),
}
"""Colour and label of each kind of memory, in the order that they are stacked."""


def family(method: str) -> str:
    """The name that a method's expression starts with, or ``other`` for several at once."""
    name = method.split("(")[0]
    return name if name in FAMILY else "other"


@contextmanager
def figure(width: float, height: float, **subplots: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of so many inches in our style; yields (figure, axes) and closes it."""
    rc = {
        "font.size": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "pdf.fonttype": 42,
        "svg.hashsalt": "bsr-explorer",
        "figure.dpi": 200,
    }
    with plt.rc_context(rc):
        fig, axes = plt.subplots(figsize=(width, height), layout="constrained", **subplots)
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def save(fig: Any, folder: Path, name: str) -> list[Path]:
    """Write PNG and PDF, byte for byte the same when nothing changed; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    fig.savefig(png, metadata={"Software": None})
    fig.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return [png, pdf]
