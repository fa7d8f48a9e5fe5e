"""Trained blocks and token drops along the front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.prediction import tokens_by_block, trained_blocks
from bsr_explorer.report.figures.blocks import draw
from bsr_explorer.report.study.findings import Findings


def test_a_row_a_configuration_and_a_dot_where_it_trains(
    found: Findings, drawn: list[Any], tmp_path: Path
) -> None:
    draw(found, tmp_path)
    _, axes = drawn[0]
    configs = [Config.from_dict(point.record.config) for point in found.front]
    shares = axes.images[0].get_array()
    assert shares.shape == (len(configs), 4)
    for row, config in enumerate(configs):
        counts = tokens_by_block(config)
        assert list(shares[row]) == pytest.approx([100 * out / counts[0][0] for _, out in counts.values()])
    dots = {(int(line.get_xdata()[0]), int(line.get_ydata()[0])) for line in axes.lines}
    assert dots == {(block, row) for row, config in enumerate(configs) for block in trained_blocks(config)}
    assert shares.min() < 100  # something drops tokens, or this would say nothing
