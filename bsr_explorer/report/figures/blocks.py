"""Which blocks train, and where tokens are dropped, along the front."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bsr_explorer.config import Config
from bsr_explorer.prediction import geometry_of, tokens_by_block, trained_blocks
from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import SMALL
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.units import format_mb


def draw(found: Findings, folder: Path) -> list[Path]:
    """A row a configuration of the front, most memory at the top, and a column a block: the share of tokens that
    leaves it, and a dot where it trains."""
    if found.unknown:
        return []
    configs = [Config.from_dict(point.record.config) for point in found.front]
    counts = [tokens_by_block(config) for config in configs]
    shares = [
        [100 * leave / row[0][0] for _, leave in row.values()] or [100.0] * geometry_of(config).depth
        for config, row in zip(configs, counts, strict=True)
    ]
    if not any(shares):
        return []
    depth, height = len(shares[0]), 0.22 * len(shares) + 1.3
    with style.figure(5.8, height) as (fig, axes):
        image = axes.imshow(
            shares, cmap="Blues", vmin=0, vmax=140, aspect="auto", origin="lower", interpolation="none"
        )
        image.set_clim(0, 140)  # so that a dot stands out on the darkest
        for row, config in enumerate(configs):
            for block in trained_blocks(config):
                axes.plot(block, row, marker="o", color=style.VERMILION, ms=5)
        axes.set_xticks(range(depth))
        axes.set_xlabel("block (0-based); dot: it trains")
        axes.set_yticks(range(len(configs)), [_named(found, row) for row in range(len(configs))])
        axes.tick_params(axis="both", length=0)
        axes.set_xticks([place - 0.5 for place in range(1, depth)], minor=True)
        axes.set_yticks([place - 0.5 for place in range(1, len(configs))], minor=True)
        axes.grid(which="minor", color="white", lw=1)
        axes.tick_params(which="minor", length=0)
        flat = {
            "location": "top",
            "shrink": 0.5,
            "aspect": 40,
        }  # its title is as whole over one row as over many
        bar = fig.colorbar(image, ax=axes, label="tokens that leave it (%)", boundaries=range(101), **flat)
        bar.set_ticks([0, 50, 100])
        for text in axes.get_yticklabels():
            text.set_fontsize(SMALL)
        return style.save(fig, folder, "blocks")


def _named(found: Findings, row: int) -> str:
    point = found.front[row]
    name = textwrap.shorten(style.family(point.method), 24)
    return f"{name}  {point.quality.text(point.score)}  {format_mb(point.bytes, 0)} MB"
