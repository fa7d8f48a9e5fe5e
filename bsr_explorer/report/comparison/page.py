"""A comparison's page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bsr_explorer.ledger import said_bound
from bsr_explorer.report.comparison.line import Line
from bsr_explorer.report.comparison.said import described
from bsr_explorer.report.comparison.table import readable
from bsr_explorer.report.markup import markdown
from bsr_explorer.store.comparison_folder import STEPS, Comparison
from bsr_explorer.units import format_bytes, format_gflops, plural


def page(
    comparison: Comparison,
    lines: Sequence[Line],
    rows: Sequence[dict[str, Any]],
    notes: Sequence[str],
    drawn: Sequence[Path],
) -> str:
    full = comparison.full
    rounds = max((len(line.seconds) for line in lines), default=0)
    ran = any(line.runs for line in lines)
    text = [
        f"# {comparison.config['model']} on {Path(comparison.data).name}",
        "",
        *(f"{sentence}\n" for sentence in described(comparison)),
        f"{_how_trained(comparison) if ran else _NOTHING_TRAINED.format(comparison.quality.name)} Full fine-tuning: "
        f"{said_bound('counted_bytes', full.at_least)}{format_bytes(full.counted_bytes)}, "
        f"{said_bound('train_flops', full.at_least)}{format_gflops(full.train_flops, 0)} GFLOPs a step. "
        + (f"A step's time is the median of {plural(rounds, 'round')} (`{STEPS}`). " if rounds else "")
        + (_ACCOUNTINGS if any(line.entry.published_bytes is not None for line in lines) else ""),
        "",
        markdown(readable(rows, comparison), as_text=True),
        "",
        *(f"![{what}](figures/{path.name})\n" for path, what in _shown(drawn, comparison.quality.name)),
    ]
    if notes:
        text += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(text)


def _how_trained(comparison: Comparison) -> str:
    return (
        f"{comparison.quality.name.capitalize()} is {comparison.protocol.says(comparison.quality)}; mean ± standard "
        "deviation over the seeds. Memory and FLOPs are predicted for one step; beside them stands what the runs held "
        "at the size they were trained at, predicted → measured."
    )


_NOTHING_TRAINED = (
    "Nothing was trained here: memory and FLOPs of one step follow from the configuration alone, and {} is not "
    "known."
)


_ACCOUNTINGS = (
    "Peak: all that torch's tensors hold at the fullest moment of a step. Saved: activations held for backward. "
    "Published: the BSR paper's own accounting (activations and parameters at 32 bits, frozen ones at 8; no gradients, "
    "no optimiser state), for the methods that it has a rule for."
)


_SHOWN = {
    "comparison": "{} against memory",
    "bars": "memory, compute, time and {} of each method",
    "accountings": "memory by the published accounting and in truth",
}
"""What a comparison's figures show, by name."""


def _shown(drawn: Sequence[Path], quality: str) -> list[tuple[Path, str]]:
    return [(path, _SHOWN[path.stem].format(quality)) for path in drawn if path.suffix == ".png"]
