"""``bsr-explore compare-studies``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.cli.compare_studies import compare_studies
from bsr_explorer.errors import UserError
from bsr_explorer.store.records import read_records, write_record


def test_it_prints_both_fronts(
    finished_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_studies(finished_once, finished_once, tmp_path / "both")
    shown = capsys.readouterr().out
    assert "hypervolume: both fronts cover the same; both together " in shown
    assert f"only {finished_once} has: nothing" in shown
    assert (tmp_path / "both" / "studies.md").is_file()


def test_its_json_says_the_same(finished_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare_studies(finished_once, finished_once, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["reference_bytes"] == 1_400_000
    assert [study["only"] for study in answer["studies"]] == [[], []]
    assert answer["studies"][0]["hypervolume"] == answer["hypervolume_of_both"] > 0
    assert answer["files"] == []


def test_other_fidelities_are_said_first(
    finished_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(finished_once, tmp_path / "longer"))
    for number, record in read_records(other).items():
        write_record(other, number, replace(record, accuracy=0.99, fidelity={**record.fidelity, "epochs": 9}))
    compare_studies(finished_once, other)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Not the same in both, so that accuracies cannot be compared and no winner is named:"
    assert lines[1] == "  fidelity.epochs: 1 → 9"
    assert not any("covers more" in line for line in lines)
    compare_studies(finished_once, other, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["comparable"], answer["hypervolume_of_both"]) == (False, None)


def test_a_folder_that_is_no_study_is_refused(finished_once: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a study"):
        compare_studies(finished_once, tmp_path)
