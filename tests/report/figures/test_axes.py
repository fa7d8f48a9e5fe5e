"""What several figures' axes have in common: ticks that say their numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.report import style
from bsr_explorer.report.figures.axes import RoundTicks, plain_ticks
from bsr_explorer.units import format_round


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.4, 2.0, [0.5, 0.7, 1, 2]),
        (90, 3400, [100, 300, 1000, 3000]),
        (0.0027, 0.9, [0.003, 0.01, 0.03, 0.1, 0.3]),
        (1, 5000, [1, 10, 100, 1000]),
        (1.32, 1.47, [1.32, 1.34, 1.36, 1.38, 1.4, 1.42, 1.44, 1.46]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert RoundTicks().tick_values(low, high) == pytest.approx(ticks)


@given(st.floats(1e-6, 1e6), st.floats(1.05, 1e6))
def test_there_are_always_enough_to_read(low: float, ratio: float) -> None:
    ticks = RoundTicks().tick_values(low, low * ratio)
    assert 3 <= len(ticks) <= 14
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len({format_round(tick) for tick in ticks}) == len(ticks)


def test_half_a_megabyte_is_no_zero() -> None:
    with style.figure(3, 3) as (figure, axes):
        axes.plot([0.3, 2], [0.001, 0.004])
        axes.set_xscale("log")
        plain_ticks(axes)
        figure.draw_without_rendering()

        def said(axis: Any) -> list[str]:
            return [label.get_text() for label in axis.get_majorticklabels()]

        assert said(axes.xaxis) == ["0.3", "0.5", "1", "2"] or "0.5" in said(axes.xaxis)
        assert "0" not in said(axes.xaxis)
        assert "0.002" in said(axes.yaxis)
