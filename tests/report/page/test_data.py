"""What the page's script works with, read off a study's records."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.markers import MarkerStyle

from bsr_explorer.config import Config
from bsr_explorer.report.page.data import measurements, outline, page_data
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import read_records, write_record

pytestmark = pytest.mark.usefixtures("toy")


def test_a_trial_has_what_its_record_says(troubled: Path) -> None:
    found = Findings.read(troubled)
    said = page_data(found, Path("a study"))
    assert [trial["number"] for trial in said["trials"]] == [point.number for point in found.points]
    assert said["recommended"] == found.recommendation.point.number
    assert said["budget"] == found.budget
    for trial, point in zip(said["trials"], found.points, strict=True):
        predicted = point.record.predicted
        assert (trial["bytes"], trial["score"], trial["method"]) == (
            *(point.bytes, point.score, point.method),
        )
        assert trial["totals"]["peak_bytes"] == predicted["peak_bytes"]
        assert [block["name"] for block in trial["blocks"]] == list(predicted["by_block"])
        for block in trial["blocks"]:
            held = predicted["by_block"][block["name"]]
            assert block["held"] == {kind: held[kind] for kind in block["held"]}
            assert block["flops"] == held.get("train_flops", 0)


def test_full_fine_tuning_stands_beside_them(troubled: Path) -> None:
    found = Findings.read(troubled)
    full = page_data(found, troubled)["full"]
    assert (full["method"], full["bytes"]) == ("full", found.full["counted_bytes"])
    assert [
        block["name"] for block in full["blocks"] if block["name"].isdecimal() and not block["trains"]
    ] == []


def test_what_was_measured_stands_beside_its_prediction(troubled: Path) -> None:
    found = Findings.read(troubled)
    known = measurements(found)
    said = page_data(found, troubled)["measured"]
    assert {one["trial"] for one in said} == set(known)
    for one in said:
        assert one["measured"] == known[one["trial"]][f"{one['kind']}_bytes"]
        assert one["predicted"] == known[one["trial"]][f"predicted_{one['kind']}_bytes"]


@pytest.mark.parametrize("marker", ["o", "s", "^", "*", "D"])
def test_a_marker_is_matplotlibs_upside_down(marker: str) -> None:
    """Upwards is less in an SVG."""
    path = MarkerStyle(marker).get_path().transformed(MarkerStyle(marker).get_transform())
    numbers = [float(text) for text in re.findall(r"-?[\d.]+", outline(marker))]
    assert numbers[:2] == pytest.approx([path.vertices[0][0], -path.vertices[0][1]], abs=1e-3)
    assert max(map(abs, numbers)) <= 0.75


def test_a_study_of_several_tasks_has_a_page(troubled: Path, tmp_path: Path) -> None:
    """Its configuration has a list among its values."""
    folder = Path(shutil.copytree(troubled, tmp_path / "study"))
    for number, record in read_records(folder).items():
        config = Config.from_dict(record.config).with_classes((6, 4))
        by_task = {"a": 0.25, "b": 0.5} if record.accuracy is not None else {}
        write_record(folder, number, replace(record, config=config.to_dict(), accuracy_by_task=by_task))
    said = page_data(Findings.read(folder), folder)
    assert said["trials"] and all(
        "; by task: a 25.0%, b 50.0%" in trial["trained"] for trial in said["trials"]
    )
    assert said["profile"][-2:] == ["--tasks", "6,4"]
