"""What a budget counts, and of which share of the steps."""

from __future__ import annotations

from bsr_explorer.config import QUANTILES
from bsr_explorer.devices.gpus import CONTEXT, MiB
from bsr_explorer.errors import UserError

COUNTS: dict[str, str] = {
    "peak": "all that is alive at the fullest moment of a step",
    "reserved": "all that torch's allocator takes from a GPU",
    "device": "all that a process takes from a GPU, as nvidia-smi shows it, with its CUDA context estimated at "
    f"{CONTEXT // MiB} MiB",
    "saved": "saved activations only",
    "published": "the BSR paper's own accounting",
}
"""What a budget may count, and what that is."""


def check_quantile(quantile: float, counts: str) -> float:
    """Refuse a share of steps that is none, or of what goes by no single step.

    Args:
        counts: key of ``COUNTS``.

    Returns:
        the share.

    Raises:
        UserError: with what is allowed.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, (int, float)) or not 0 <= quantile <= 1:
        raise UserError(
            f"--budget-quantile: {quantile!r} must be a share of the steps from 0 to 1, such as 0.95; 1 is the fullest "
            "step that may occur"
        )
    if quantile < 1 and counts not in QUANTILES:
        why = (
            "has no rule for steps that differ"
            if counts == "published"
            else "is not given back between steps"
        )
        raise UserError(
            f"--budget-quantile: {quantile:g} of the steps cannot be counted by {counts}, which {why}; count "
            f"{' or '.join(QUANTILES)} (--budget-counts), or leave it out"
        )
    return float(quantile)


def said_counts(counts: str, quantile: float = 1.0) -> str:
    """What a budget counts, in words."""
    beyond = f", which {100 * quantile:g}% of the steps do not exceed" if quantile < 1 else ""
    return COUNTS[counts] + beyond
