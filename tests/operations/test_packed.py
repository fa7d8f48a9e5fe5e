"""Operations that pack: what they hold, and when, event by event against the allocator."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.ledger import Ledger
from bsr_explorer.operations.rules import PACKED, RULES

Both = Callable[..., tuple[Ledger, Ledger]]


def test_packed_operations_have_plain_ones() -> None:
    assert PACKED.keys() <= RULES.keys()
    assert all(rule.unpacks and rule.keeps_results for rule in PACKED.values())


@pytest.mark.parametrize(
    "method",
    [
        "mesa",
        "mesa(bits=4, faithful=False)",
        "backrazor(ratio=0.5)",
        "backrazor(ratio=0.3, quantize=4, gelu='sparse')",
        "backrazor(faithful=False)",
        "bsr(blocks=(1,), keep={0: 0.5})+mesa",
        "bsr(blocks=(0,), keep={1: 0.5})+backrazor(ratio=0.8)",
        "checkpoint+mesa(faithful=False)",
        "offload+mesa",
        "checkpoint(blocks=(0,))+offload+backrazor",
    ],
)
@pytest.mark.parametrize(
    ("batch", "attention", "options"),
    [(1, "math", {}), (3, "fused", {}), (3, "math", {"init_values": 1e-5})],
    ids=str,
)
def test_the_peak_is_that_of_a_real_step(
    both: Both, method: str, batch: int, attention: str, options: dict[str, float]
) -> None:
    predicted, measured = both(method, attention, batch, **options)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, abs=64)
