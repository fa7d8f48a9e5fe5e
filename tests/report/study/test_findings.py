"""What a study came to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.pareto import hypervolume
from bsr_explorer.report.choice import recommend
from bsr_explorer.report.front import front, points
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import read_records


def test_findings_follow_from_records(finished_once: Path) -> None:
    found = Findings.read(finished_once)
    records = read_records(finished_once)
    assert found.records == records
    assert found.points == points(records)
    assert found.front == front(points(records))
    assert found.recommendation == recommend(found.front)
    assert found.budget == 1_400_000
    assert found.hypervolume == hypervolume(
        [p.bytes for p in found.front], [p.score for p in found.front], 1_400_000
    )
    assert found.seeds == 1
    assert str(found.config.method) == found.recommendation.point.method


def test_points_to_show_are_of_the_front_in_its_order(finished_once: Path) -> None:
    found = Findings.read(finished_once)
    places = [found.front.index(point) for point in found.spread]
    assert places == sorted(set(places))
    assert {0, len(found.front) - 1, found.front.index(found.recommendation.point)} <= set(places)


def test_a_study_without_a_finished_trial_has_no_findings(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    with pytest.raises(UserError, match="has no finished trial yet"):
        Findings.read(tmp_path)
