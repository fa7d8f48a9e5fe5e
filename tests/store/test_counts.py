"""What a budget counts, in words, and a share of the steps."""

from __future__ import annotations

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.store.counts import COUNTS, check_quantile, said_counts


def test_a_share_is_said_where_there_is_one() -> None:
    assert said_counts("saved", 0.95) == "saved activations only, which 95% of the steps do not exceed"
    assert said_counts("saved") == COUNTS["saved"]


@pytest.mark.parametrize("quantile", [-0.1, 1.1, "most", True, None])
def test_what_is_no_share_is_refused(quantile: float) -> None:
    with pytest.raises(UserError, match=r"--budget-quantile: .* must be a share of the steps from 0 to 1"):
        check_quantile(quantile, "peak")


@pytest.mark.parametrize(("counts", "why"), [("published", "has no rule"), ("reserved", "is not given back")])
def test_a_share_of_the_steps_is_of_what_a_step_holds_itself(counts: str, why: str) -> None:
    assert check_quantile(1, counts) == 1.0
    with pytest.raises(UserError, match=f"--budget-quantile: 0.5 .* {counts}, which {why}.* peak or saved"):
        check_quantile(0.5, counts)
