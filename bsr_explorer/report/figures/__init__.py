"""The figures of a study, a file each. A new one is a file and a line here.

Each draws a study's findings into a folder as PNG, PDF and SVG, and returns their paths; none where there is nothing to
draw.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bsr_explorer.report.figures import (
    batch,
    blocks,
    calibration,
    front,
    hypervolume,
    memory_by_block,
    saving,
    step,
)
from bsr_explorer.report.study.findings import Findings

FIGURES: dict[str, Callable[[Findings, Path], list[Path]]] = {
    "accuracy against memory": front.draw,
    "memory by block and kind": memory_by_block.draw,
    "memory over one training step": step.draw,
    "trained blocks and token drops along the front": blocks.draw,
    "saving against accuracy": saving.draw,
    "memory against batch size": batch.draw,
    "hypervolume against cost": hypervolume.draw,
    "predicted against measured": calibration.draw,
}
"""Every figure of a study, by what it shows, in the order of the page."""
