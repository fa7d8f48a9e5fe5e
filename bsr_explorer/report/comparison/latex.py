"""A comparison's table for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bsr_explorer.report import markup
from bsr_explorer.report.comparison.line import Line
from bsr_explorer.report.comparison.said import described
from bsr_explorer.report.comparison.table import best, readable
from bsr_explorer.store.comparison_folder import Comparison


def latex(comparison: Comparison, lines: Sequence[Line], rows: Sequence[dict[str, Any]]) -> str:
    """The table for a paper: short names, megabytes only, the best of each column in bold; no ratios of what the
    columns hold, and nothing of the smaller size that was trained at."""
    frame = readable(rows, comparison)
    beyond = ("MiB", f"at {comparison.quality.size(comparison.trained_at)}")
    less = [f"{kind}, to full" for kind in ("peak", "saved", "published", "batch")]
    frame = frame[
        [name for name in frame if name not in less and not any(word in str(name) for word in beyond)]
    ]
    frame["method"] = [line.entry.label for line in lines]
    quality = comparison.quality
    bold = {
        comparison.protocol.column(quality.column): best([row[quality.name] for row in rows], quality.best),
        f"{comparison.counts} (MB)": best([row["counted_bytes"] for row in rows]),
        "train GFLOPs a step": best([row["train_flops"] for row in rows]),
        "step (s)": best([row["step_seconds"] for row in rows]),
    }
    for kind in ("peak", "saved", "published"):
        bold.setdefault(f"{kind} (MB)", best([row[f"{kind}_bytes"] for row in rows]))
    return markup.latex(frame, " ".join(described(comparison)), bold)
