"""What is written of a comparison: all of it, and only of what is in its folder."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import AUTHORS
from bsr_explorer.errors import UserError
from bsr_explorer.report.comparison.write import Report, predicted, report
from bsr_explorer.store.comparison_folder import STEPS
from tests.report.figures.conftest import marks

MakeComparison = Callable[..., Any]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


FILES = {
    *("comparison.md", "comparison.csv", "comparison.tex"),
    *(
        f"figures/{name}.{kind}"
        for name in ("comparison", "bars", "accountings")
        for kind in ("png", "pdf", "svg")
    ),
}


def test_all_files_are_written_and_named(written: tuple[Path, Report]) -> None:
    folder, made = written
    assert {str(path.relative_to(folder)) for path in made.files} == FILES
    assert all(path.stat().st_size > 100 for path in made.files)


@pytest.mark.thorough
@pytest.mark.usefixtures("all_formats")
def test_a_second_report_is_the_same_to_the_byte(written: tuple[Path, Report], compared_folder: Path) -> None:
    for mine, theirs in zip(report(compared_folder).files, written[1].files, strict=True):
        assert mine.name == theirs.name
        assert mine.read_bytes() == theirs.read_bytes()


def test_what_was_measured_is_left_alone(written: tuple[Path, Report], compared_once: Path) -> None:
    for path in compared_once.rglob("*"):
        if path.is_file():
            assert (written[0] / path.relative_to(compared_once)).read_bytes() == path.read_bytes()


def test_the_table_is_unscaled(written: tuple[Path, Report]) -> None:
    folder, made = written
    for cells, each in zip(rows(folder / "comparison.csv"), made.rows, strict=True):
        assert list(cells) == list(each)
        assert cells["peak_bytes"] == str(each["peak_bytes"])
        assert cells["trained_peak_bytes_measured"] == str(each["trained_peak_bytes_measured"])
        assert float(cells["accuracy"]) == each["accuracy"]
        assert cells["largest_batch"] == ""


@pytest.mark.thorough
def test_what_does_not_fit_is_shown(
    compared_folder: Path, make_comparison: MakeComparison, drawn: list[Any]
) -> None:
    """Even if it was trained once, under another budget."""
    make_comparison(budget="1400KB", counts="saved").write(compared_folder)
    assert {each["status"] for each in report(compared_folder).rows} == {"finished"}
    make_comparison(budget="1400KB").write(compared_folder)
    made = report(compared_folder)
    assert [each["status"] for each in made.rows] == ["does not fit", "finished", "finished"]
    assert (made.rows[0]["accuracy"], made.rows[0]["step_seconds"]) == (None, None)
    assert made.rows[1]["accuracy_minus_full"] is None
    page = (compared_folder / "comparison.md").read_text()
    assert "Budget 1400KB = 1.4 MB (1.3 MiB), counting all that is alive at the fullest moment" in page
    assert any("`full`" in line and "does not fit" in line for line in page.splitlines())
    _, axes = drawn[-3]
    assert "full: does not fit" in {text.get_text() for text in axes.texts}
    assert (made.comparison.full.counted_bytes / 1e6, axes.get_ylim()[0]) in marks(axes)


def test_a_comparison_that_has_not_begun_is_shown(compared_folder: Path) -> None:
    shutil.rmtree(compared_folder / "records")
    (compared_folder / STEPS).unlink()
    made = report(compared_folder)
    assert {each["status"] for each in made.rows} == {"not run here"}
    assert {path.stem for path in made.files if path.suffix == ".png"} == {"bars", "accountings"}
    assert not (compared_folder / "figures/comparison.png").exists()
    page = (compared_folder / "comparison.md").read_text()
    assert (
        "Nothing was trained here: memory and FLOPs of one step follow from the configuration alone" in page
    )
    assert "figures/bars.png" in page and "figures/comparison.png" not in page
    assert all("not run here" in line for line in page.splitlines() if line.startswith("| `"))


def test_nothing_is_written_of_what_is_only_predicted(
    make_comparison: MakeComparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = predicted(make_comparison())
    assert (made.files, list(tmp_path.iterdir())) == ([], [])
    assert [(each["status"], each["accuracy"]) for each in made.rows] == [("not run here", None)] * 3
    assert [each["peak_bytes"] for each in made.rows] == [e.peak_bytes for e in made.comparison.entries]


def test_a_comparison_of_an_earlier_version_has_no_published_accounting(compared_folder: Path) -> None:
    path = compared_folder / "comparison.json"
    stored = json.loads(path.read_text())
    for entry in (stored["full"], *stored["entries"]):
        del entry["published_bytes"]
    path.write_text(json.dumps(stored))
    made = report(compared_folder)
    assert {each["published_bytes"] for each in made.rows} == {None}
    assert "ublished" not in (compared_folder / "comparison.md").read_text()
    assert "accountings" not in {path.stem for path in made.files}


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"STUDY: {tmp_path} is not the folder of a comparison"):
        report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(compared_folder: Path) -> None:
    (compared_folder / "figures").write_text("in the way")
    with pytest.raises(UserError, match="figures"):
        report(compared_folder)


@pytest.mark.thorough
def test_neither_torch_nor_optuna_is_imported() -> None:
    code = (
        "import bsr_explorer.report.comparison.write, sys; "
        "assert 'matplotlib' in sys.modules; "
        "assert not {'torch', 'optuna', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_json_of_the_file_is_plain(compared_folder: Path) -> None:
    stored = json.loads((compared_folder / "comparison.json").read_text())
    assert [entry["method"] for entry in stored["entries"]] == ["full", "linear", "last(k=1)"]


MARK = AUTHORS.mark


@pytest.fixture
def by_authors(compared_folder: Path) -> Report:
    """The report of a comparison by the authors' protocol."""
    path = compared_folder / "comparison.json"
    values = json.loads(path.read_text())
    values["fidelity"]["protocol"] = "authors"
    path.write_text(json.dumps(values))
    return report(compared_folder)


@pytest.mark.usefixtures("all_formats")
def test_the_authors_protocol_is_marked_wherever_its_numbers_stand(by_authors: Report) -> None:
    page, table, tex, *_ = by_authors.files
    assert MARK == "best on test, authors' protocol"
    assert f"| accuracy (%), {MARK} |" in " ".join(page.read_text().split())
    assert "Protocol authors: for reproduction alone" in page.read_text()
    assert "Accuracy is top-1 on test, the best of all evaluations (protocol authors)" in page.read_text()
    assert {row["protocol"] for row in rows(table)} == {"authors"}
    assert MARK in tex.read_text() and "Protocol authors: for reproduction alone" in tex.read_text()
    assert "validation" not in page.read_text()
    for name in ("comparison", "bars"):
        (drawn,) = [path for path in by_authors.files if path.name == f"{name}.svg"]
        assert "authors" in drawn.read_text()


def test_the_usual_protocol_is_named_and_marks_nothing(written: tuple[Path, Report]) -> None:
    page, table, *_ = written[1].files
    assert "| accuracy (%) |" in " ".join(page.read_text().split())
    assert "Protocol held-out: images held out of training judge it" in page.read_text()
    assert "Accuracy is top-1 on validation, after the last epoch" in page.read_text()
    assert {row["protocol"] for row in rows(table)} == {"held-out"}
