"""Memory of each block, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.report import style
from bsr_explorer.report.figures.memory_by_block import draw
from bsr_explorer.report.study.findings import Findings


def test_each_block_has_its_memory(found: Findings, drawn: list[Any], tmp_path: Path) -> None:
    assert draw(found, tmp_path)[0].name == "memory_by_block.png"
    _, grid = drawn[0]
    ledgers = [found.full, *(p.record.predicted for p in found.spread)]
    assert len(grid[:, 0]) == len(ledgers) > 2
    for axes, ledger in zip(grid[:, 0], ledgers, strict=True):
        assert heights(axes, 5) == pytest.approx(
            [
                sum(v for k, v in block.items() if k in style.KIND) / 1e6
                for block in ledger["by_block"].values()
            ]
        )
        assert sum(heights(axes, 5)) == pytest.approx(ledger["held_bytes"] / 1e6)
    names = [text.get_text() for text in grid[-1, 0].get_xticklabels()]
    assert names == ["0", "1", "2", "3", "rest"]


def heights(axes: Any, bars: int) -> Sequence[float]:
    """Height of each stack."""
    return [sum(patch.get_height() for patch in axes.patches[bar::bars]) for bar in range(bars)]


def test_a_long_method_does_not_run_out_of_the_page(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    long = "bsr(blocks=(" + ", ".join(map(str, range(99))) + "), keep={})"
    draw(Findings({0: replace(found.records[0], config={"method": long})}), tmp_path)
    figure, grid = drawn[0]
    titles = [text for axes in grid[:, 0] for text in axes.texts]
    assert len(titles) == 2
    for text in titles:
        assert len(text.get_text()) < 120
        assert text.get_window_extent().x1 < figure.get_window_extent().x1
