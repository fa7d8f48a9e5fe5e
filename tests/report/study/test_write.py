"""The report: its files, that they are the same when made again, and what it needs to be made."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.pareto import hypervolume
from bsr_explorer.report.choice import recommend
from bsr_explorer.report.figures import FIGURES
from bsr_explorer.report.front import front, points
from bsr_explorer.report.study.write import Report, report
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.study import COUNTS, Study

FILES = {
    *("report.md", "front.csv", "front.tex", "trials.csv"),
    *(
        f"figures/{name}.{kind}"
        for name in (
            *("front", "memory_by_block", "memory_over_a_step", "blocks", "saving", "batch_size"),
            *("hypervolume", "calibration"),
        )
        for kind in ("png", "pdf", "svg")
    ),
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A study's folder and its report."""
    folder = Path(shutil.copytree(finished_once, tmp_path_factory.mktemp("written") / "toy-study"))
    return folder, report(folder)


@pytest.fixture(autouse=True)
def few_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures take seconds; where a test does not say otherwise, those that depend on measurements are enough."""
    if "all_figures" not in request.fixturenames:
        few = {title: FIGURES[title] for title in ("accuracy against memory", "predicted against measured")}
        monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", few)


@pytest.fixture
def all_figures() -> None:
    """Asks for every figure."""


def test_all_files_are_written_and_named(written: tuple[Path, Report]) -> None:
    folder, made = written
    assert {str(path.relative_to(folder)) for path in made.files} == FILES
    assert len(made.files) == len(FILES)
    assert all(path.stat().st_size > 100 for path in made.files)
    assert made.found.records == read_records(folder)
    assert made.found.front == front(points(made.found.records))
    assert made.found.recommendation == recommend(made.found.front)


def test_a_second_report_is_the_same_to_the_byte(finished_once: Path, tmp_path: Path) -> None:
    """(``tests/report/figures`` says so of each figure in each format.)"""
    folders = [Path(shutil.copytree(finished_once, tmp_path / name / "toy-study")) for name in "ab"]
    first, second = (report(folder).files for folder in folders)
    assert {path.suffix for path in first} == {".md", ".csv", ".tex", ".png"}
    for mine, theirs in zip(first, second, strict=True):
        assert mine.name == theirs.name
        assert mine.read_bytes() == theirs.read_bytes()


def test_what_the_search_wrote_is_left_alone(written: tuple[Path, Report], finished_once: Path) -> None:
    for path in finished_once.rglob("*"):
        if path.is_file():
            assert (written[0] / path.relative_to(finished_once)).read_bytes() == path.read_bytes()


def test_pdfs_have_fonts_that_journals_take(written: tuple[Path, Report]) -> None:
    for path in written[1].files:
        if path.suffix == ".pdf":
            assert b"/Type3" not in path.read_bytes()


def test_tables_hold_the_trials(written: tuple[Path, Report]) -> None:
    folder, made = written
    trials, ahead = rows(folder / "trials.csv"), rows(folder / "front.csv")
    assert [int(row["trial"]) for row in trials] == list(range(7))
    assert [float(row["accuracy"]) for row in trials] == [r.accuracy for r in made.found.records.values()]
    assert [row["method"] for row in trials] == [r.method for r in made.found.records.values()]
    assert [int(row["trial"]) for row in ahead] == [p.number for p in made.found.front]


def test_the_page_says_what_was_found(written: tuple[Path, Report]) -> None:
    folder, made = written
    page = (folder / "report.md").read_text()
    assert page.startswith("# toy-study\n")
    assert f"Budget 1400KB = 1.4 MB (1.3 MiB), counting {COUNTS['peak']}. Full fine-tuning" in page
    assert "Trained at 32 px for 1 epoch (recipe `short`" in page
    assert "equal in 7 of 7 trials; the peak of a step was " in page
    off = [float(number) for number in re.findall(r"([+-]\d+\.\d+)%", page.split("of a step was ")[1])][:2]
    assert off == [pytest.approx(each, abs=0.001) for each in (min(errors(made)), max(errors(made)))]
    assert max(map(abs, off)) < 0.1
    assert "one seed a configuration; accuracy is top-1" in page
    volume = hypervolume([p.bytes for p in made.found.front], [p.score for p in made.found.front], 1_400_000)
    assert made.found.hypervolume == volume > 0
    assert f"\nHypervolume {volume:.4f}: the area under this front" in page
    assert f"**Recommended: `{made.found.recommendation.point.method}`**" in page
    assert "Not finished" not in page
    assert "Stopped" not in page
    assert "Faults" not in page
    for link in ("figures/front.png", "figures/memory_by_block.png", "figures/calibration.png"):
        assert f"({link})" in page
        assert (folder / link).is_file()


def errors(made: Report) -> list[float]:
    """By how many percent each trial's peak was above its prediction."""
    every = [record.measured for record in made.found.records.values() if record.measured is not None]
    return [100 * (m["peak_bytes"] / m["predicted_peak_bytes"] - 1) for m in every]


def test_a_fault_of_the_cost_model_is_named(study_folder: Path) -> None:
    record = read_records(study_folder)[3]
    assert record.measured is not None
    high = {**record.measured, "peak_bytes": 2 * record.measured["predicted_peak_bytes"], "fault": "far off"}
    write_record(study_folder, 3, replace(record, measured=high))
    report(study_folder)
    page = (study_folder / "report.md").read_text()
    assert f"## Faults of the cost model\n\n- trial 3, `{record.method}`: far off\n" in page
    assert "+100.000% off its prediction." in page


@pytest.mark.parametrize("measured", [None, {"saved_bytes": 8, "predicted_saved_bytes": 8}])
def test_what_was_not_measured_is_not_claimed(study_folder: Path, measured: dict[str, int] | None) -> None:
    for number, record in read_records(study_folder).items():
        write_record(study_folder, number, replace(record, measured=measured))
    report(study_folder)
    page = (study_folder / "report.md").read_text()
    assert "of a step was" not in page
    assert ("equal in 7 of 7 trials." in page) == (measured is not None)
    assert ("calibration.png" in page) == (measured is not None)
    assert (study_folder / "figures" / "calibration.png").exists() == (measured is not None)


def test_what_did_not_finish_is_listed_with_its_reason(study_folder: Path) -> None:
    record = read_records(study_folder)[0]
    lost: dict[str, Any] = {"accuracy": None, "measured": None}
    write_record(study_folder, 7, replace(record, status="diverged", reason="the loss was nan", **lost))
    write_record(study_folder, 8, replace(record, status="failed", reason="RuntimeError: no memory", **lost))
    report(study_folder)
    page = (study_folder / "report.md").read_text()
    assert "## Not finished" in page
    assert "- trial 7, `linear`: diverged, the loss was nan" in page
    assert "- trial 8, `linear`: failed, RuntimeError: no memory" in page
    assert "equal in 7 of 7 trials" in page
    trials = rows(study_folder / "trials.csv")
    assert [row["status"] for row in trials[7:]] == ["diverged", "failed"]
    assert trials[8]["reason"] == "RuntimeError: no memory"


def test_what_was_stopped_at_a_rung_is_no_failure(study_folder: Path) -> None:
    record = replace(read_records(study_folder)[1], status="stopped", reason="41.0% after 1 epoch")
    write_record(study_folder, 1, record)
    made = report(study_folder)
    assert 1 not in [point.number for point in points(made.found.records)]
    page = (study_folder / "report.md").read_text()
    listed = page.split("## Stopped early at a rung")[1]
    assert f"- trial 1, `{record.method}`: 41.0% after 1 epoch\n" in listed
    assert "Not finished" not in page
    assert rows(study_folder / "trials.csv")[1]["status"] == "stopped"


def test_fresh_seeds_decide_and_are_counted(study_folder: Path) -> None:
    """The luckiest trial is trained again and falls behind: it leaves the front."""
    first = report(study_folder)
    lucky = first.found.front[-1]
    for number, accuracy in ((7, 0.0), (8, 0.1)):
        study = {**lucky.record.study, "replica": number - 6, "number": number}
        write_record(study_folder, number, replace(lucky.record, accuracy=accuracy, study=study))
    made = report(study_folder)
    assert lucky.number not in [point.number for point in made.found.front]
    (point,) = [p for p in points(made.found.records) if p.number == lucky.number]
    assert (point.score, point.seeds) == (pytest.approx(0.05), 2)
    assert made.found.hypervolume < first.found.hypervolume
    page = (study_folder / "report.md").read_text()
    assert "one seed a configuration, or the mean ± standard deviation over as many fresh seeds" in page
    trials = rows(study_folder / "trials.csv")
    assert [row["replica"] for row in trials] == ["0"] * 7 + ["1", "2"]


def test_a_prediction_that_was_wrong_is_not_hidden(study_folder: Path) -> None:
    record = read_records(study_folder)[3]
    assert record.measured is not None
    off = {**record.measured, "saved_bytes": record.measured["saved_bytes"] + 4}
    write_record(study_folder, 3, replace(record, measured=off))
    report(study_folder)
    assert "equal in 6 of 7 trials" in (study_folder / "report.md").read_text()


# --- what is refused ------------------------------------------------------------------------------------


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"STUDY: {tmp_path} is not the folder of a study"):
        report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_without_a_finished_trial_is_refused(study_folder: Path) -> None:
    records = study_folder / "records"
    record = read_records(study_folder)[0]
    for path in records.iterdir():
        path.unlink()
    for number in range(2):
        with pytest.raises(UserError, match="has no finished trial yet; run its search first"):
            report(study_folder)
        write_record(study_folder, number, replace(record, status="failed", accuracy=None))
    assert not (study_folder / "report.md").exists()


def test_a_record_of_no_study_is_refused(study_folder: Path) -> None:
    write_record(study_folder, 7, replace(read_records(study_folder)[0], study={}))
    with pytest.raises(UserError, match=r"0007\.json"):
        report(study_folder)


def test_a_folder_that_cannot_be_written_is_refused(study_folder: Path) -> None:
    (study_folder / "figures").write_text("in the way")
    with pytest.raises(UserError, match="figures"):
        report(study_folder)


# --- what it needs --------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_neither_torch_nor_optuna_is_imported() -> None:
    code = (
        "import bsr_explorer.report.study.write, sys; "
        "assert 'matplotlib' in sys.modules; "
        "assert not {'torch', 'optuna', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.thorough
@pytest.mark.parametrize("counts", ["saved", "published"])
def test_a_report_is_by_the_studys_own_accounting(
    make_study: Callable[..., Study], open_search: Callable[..., Any], quiet: Any, tmp_path: Path, counts: str
) -> None:
    study = make_study(counts=counts, trials=2, budget="1TB")
    open_search(study, tmp_path).run(quiet)
    report(tmp_path)
    key = {"saved": "saved_bytes", "published": "counted_bytes"}[counts]
    records = read_records(tmp_path)
    assert [int(row["counted_bytes"]) for row in rows(tmp_path / "trials.csv")] == [
        {**record.predicted, **record.study}[key] for record in records.values()
    ]
