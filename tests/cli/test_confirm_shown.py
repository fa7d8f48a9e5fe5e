"""How a confirmation is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.cli.confirm_shown import answer, planned, show, write
from bsr_explorer.config import Fidelity
from bsr_explorer.confirm.orders import Orders, Reached
from bsr_explorer.report.study.findings import Findings


@pytest.fixture
def orders(finished_once: Path) -> Orders:
    points = Findings.read(finished_once).points[:3]
    said, reached = (0.5, 0.6, 0.7), (0.52, 0.71, 0.66)
    made = [
        Reached(replace(point, score=a, bytes=n * 10**6), (b,), 100)
        for n, (point, a, b) in enumerate(zip(points, said, reached, strict=True), start=1)
    ]
    return Orders(tuple(made), points[2].number)


def test_what_the_recommendation_cost_is_said(orders: Orders, capsys: pytest.CaptureFixture[str]) -> None:
    show(orders)
    said = " ".join(capsys.readouterr().out.split())
    assert "3 configurations: Spearman 0.50, Kendall 0.33 between said and reached." in said
    assert "the best of what takes no more memory is trial 1, 71.0 ± 4.5%: 5.0 points more." in said


def test_a_good_recommendation_is_said_to_be_one(orders: Orders, capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(orders, recommended=orders.reached[1].point.number))
    assert "71.0 ± 4.5%, the best of what takes no more memory." in " ".join(capsys.readouterr().out.split())


def test_files_hold_both_orders(orders: Orders, tmp_path: Path) -> None:
    table, page = write(orders, tmp_path)
    assert len(table.read_text().splitlines()) == 1 + 3
    assert "| 71.0 ± 4.5 | 1 |" in page.read_text()
    said = answer(orders, Fidelity(48, 20, 20, 1), [table, page])
    assert [each["rank_reached"] for each in said["configurations"]] == [3, 1, 2]
    assert said["spearman"] == pytest.approx(0.5)


def test_a_plan_says_what_is_trained_how(finished_once: Path) -> None:
    found = Findings.read(finished_once)
    text = planned(found, found.points, Fidelity(48, 200, 100, 2), 2, [])
    assert (
        "said at 32 px by 20 images; now at 48 px by 200 images, 100 validation images, recipe short" in text
    )
    assert "2 seeds each" in text
