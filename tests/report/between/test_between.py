"""Two studies side by side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.pareto import hypervolume
from bsr_explorer.report.between.between import Between
from bsr_explorer.report.between.write import write
from bsr_explorer.store.records import read_records, write_record


def test_a_study_is_equal_to_itself(finished_once: Path) -> None:
    between = Between.read((finished_once, finished_once))
    assert between.volumes[0] == between.volumes[1] == between.volumes[2] > 0
    assert between.lacking(0) == between.lacking(1) == []
    assert between.differences == []
    assert between.verdict().startswith("both fronts cover the same; ")
    assert between.sides[0].name == str(finished_once)  # for both studies have one name


def test_what_only_one_has_is_what_the_other_does_not_reach(halves: tuple[Path, Path]) -> None:
    between = Between.read(halves)
    assert [side.name for side in between.sides] == ["even", "odd"]
    first, second, both = between.volumes
    assert both >= max(first, second) > 0
    for place, side in enumerate(between.sides):
        other = between.sides[1 - place].front
        for point in side.front:
            reached = any(p.bytes <= point.bytes and p.score >= point.score for p in other)
            both = point.method in {p.method for p in between.sides[1 - place].found.points}
            assert (point in between.lacking(place)) == (not reached and not both)
    assert between.lacking(0) or between.lacking(1)
    for place, side in enumerate(between.sides):
        rows = [row for row in between.rows() if row["study"] == side.name]
        assert [row["trial"] for row in rows if row["only_there"]] == [
            p.number for p in between.lacking(place)
        ]


def test_the_smaller_budget_is_the_reference(halves: tuple[Path, Path]) -> None:
    smaller = max(min(p.bytes for p in side.front) for side in Between.read(halves).sides)
    for number, record in read_records(halves[1]).items():
        little = {**record.study, "budget": f"{smaller}B", "budget_bytes": smaller}
        write_record(halves[1], number, replace(record, study=little))
    between = Between.read(halves)
    assert between.reference == smaller
    assert all(p.bytes <= smaller for side in between.sides for p in side.front)
    for place, side in enumerate(between.sides):
        assert side.beyond == len(side.found.front) - len(side.front)
        sizes, accuracies = [p.bytes for p in side.front], [p.score for p in side.front]
        assert between.volumes[place] == hypervolume(sizes, accuracies, smaller)
    assert sum(side.beyond for side in between.sides) > 0
    assert any(line.startswith("budget: ") for line in between.differences)


def test_what_makes_accuracies_incomparable_is_said(halves: tuple[Path, Path], tmp_path: Path) -> None:
    for number, record in read_records(halves[1]).items():
        write_record(halves[1], number, replace(record, fidelity={**record.fidelity, "epochs": 9}))
    between = Between.read(halves)
    assert between.differences == ["fidelity.epochs: 1 → 9"]
    first, second, _ = between.volumes
    assert between.verdict().startswith(
        f"{first:.4f} of even, {second:.4f} of odd; no winner, for they were not "
    )
    write(between, tmp_path)
    page = (tmp_path / "studies.md").read_text()
    assert page.index("no winner is named") < page.index("fidelity.epochs: 1 → 9") < page.index("Hypervolume")
    assert "covers more" not in page


def test_what_both_have_is_not_only_in_one(finished_once: Path, tmp_path: Path) -> None:
    """Another seed gives the same methods other accuracies; none of them is only there."""
    other = Path(shutil.copytree(finished_once, tmp_path / "other"))
    for number, record in read_records(other).items():
        write_record(other, number, replace(record, accuracy=(record.accuracy or 0) + 0.3))
    between = Between.read((finished_once, other))
    assert between.comparable
    assert between.lacking(0) == between.lacking(1) == []
    assert not any(row["only_there"] for row in between.rows())
    assert between.verdict().startswith(f"{other} covers more: ")


def test_budgets_that_count_differently_are_refused(halves: tuple[Path, Path]) -> None:
    for number, record in read_records(halves[1]).items():
        write_record(halves[1], number, replace(record, study={**record.study, "counts": "saved"}))
    with pytest.raises(UserError, match=r"counts peak memory and .* counts saved"):
        Between.read(halves)
