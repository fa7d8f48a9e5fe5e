"""A comparison's table, page and figure: what they say of its folder, and that ratios are right."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pytest

from bsr_explorer.config import AUTHORS, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.report import style
from bsr_explorer.report.comparison import Report, lines_of, predicted, report, row
from bsr_explorer.store.comparison_folder import STEPS, StepTimes, read_step_times
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.units import format_mb

MakeComparison = Callable[..., Any]

FILES = {
    *("comparison.md", "comparison.csv", "comparison.tex"),
    *(
        f"figures/{name}.{kind}"
        for name in ("comparison", "bars", "accountings")
        for kind in ("png", "pdf", "svg")
    ),
}


@pytest.fixture(scope="module")
def written(compared_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A comparison's folder and its report."""
    folder = Path(shutil.copytree(compared_once, tmp_path_factory.mktemp("written") / "toy-comparison"))
    return folder, report(folder)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- numbers --------------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_and_deviation_over_seeds(written: tuple[Path, Report]) -> None:
    folder, made = written
    records = list(read_records(folder).values())
    for line, each in zip(made.lines, made.rows, strict=True):
        scores = [r.accuracy for r in records if r.key == line.entry.key and r.accuracy is not None]
        assert (each["status"], each["runs"]) == ("finished", 2)
        assert each["accuracy"] == pytest.approx(mean(scores))
        assert each["accuracy_std"] == pytest.approx(stdev(scores))
        assert each["accuracy_minus_full"] == pytest.approx(each["accuracy"] - made.rows[0]["accuracy"])


def test_ratios_are_to_full_fine_tuning(written: tuple[Path, Report]) -> None:
    folder, made = written
    full, times = made.comparison.full, read_step_times(folder).seconds
    for line, each in zip(made.lines, made.rows, strict=True):
        for kind in ("peak_bytes", "saved_bytes", "counted_bytes"):
            ratio = each[kind.replace("bytes", "full_over_this")]
            assert ratio == pytest.approx(getattr(full, kind) / getattr(line.entry, kind))
        assert each["train_flops_over_full"] == pytest.approx(line.entry.train_flops / full.train_flops)
        mine, fulls = times[line.entry.key], times[full.key]
        assert each["step_seconds"] == median(mine)
        assert each["step_seconds_over_full"] == median(a / b for a, b in zip(mine, fulls, strict=True))
    first = made.rows[0]
    assert {first[key] for key in first if key.endswith(("over_full", "over_this"))} == {1.0, None}
    assert made.rows[1]["peak_full_over_this"] > 1 > made.rows[1]["train_flops_over_full"]


def test_time_is_compared_round_by_round(make_comparison: MakeComparison) -> None:
    made = make_comparison("full, linear")
    full, linear = made.entries
    times = StepTimes({full.key: [1.0, 10.0, 1.0], linear.key: [0.5, 2.0, 0.4]})
    lines = lines_of(made, {}, times)
    each = row(lines[1], lines, made)
    assert (each["step_seconds"], each["step_seconds_over_full"]) == (0.5, 0.4)


def test_measured_is_the_run_furthest_off(written: tuple[Path, Report]) -> None:
    line = written[1].lines[0]
    measured = {"peak_bytes": 8, "predicted_peak_bytes": 10, "saved_bytes": 3, "predicted_saved_bytes": 3}
    runs = [replace(line.runs[0], measured=measured), replace(line.runs[1], measured=None)]
    assert replace(line, runs=runs).measured("peak") == (10, 8)
    runs[1] = replace(line.runs[1], measured={**measured, "peak_bytes": 13})
    assert replace(line, runs=runs).measured("peak") == (10, 13)
    runs = [replace(run, measured={"saved_bytes": 3}) for run in line.runs]
    assert replace(line, runs=runs).measured("peak") is None


def test_one_seed_has_no_deviation(written: tuple[Path, Report]) -> None:
    line = written[1].lines[0]
    assert replace(line, runs=line.runs[:1]).deviation is None


def test_batches_are_compared_under_a_budget(make_comparison: MakeComparison) -> None:
    made = make_comparison("full, linear", budget="2500KB")
    lines = lines_of(made, {}, StepTimes())
    full, linear = (row(line, lines, made) for line in lines)
    assert linear["largest_batch_over_full"] == linear["largest_batch"] / full["largest_batch"] > 1


def test_without_full_its_predictions_are_still_the_reference(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    made = make_comparison("linear")
    made.write(compared_folder)
    (each,) = report(compared_folder).rows
    assert each["accuracy"] is not None
    assert each["peak_full_over_this"] == made.full.peak_bytes / made.entries[0].peak_bytes
    assert each["train_flops_over_full"] == made.entries[0].train_flops / made.full.train_flops
    absent = ("accuracy_minus_full", "accuracy_over_full", "step_seconds_over_full")
    assert [each[key] for key in absent] == [None] * 3
    assert each["step_seconds"] is not None


# --- files ----------------------------------------------------------------------------------------------


def test_all_files_are_written_and_named(written: tuple[Path, Report]) -> None:
    folder, made = written
    assert {str(path.relative_to(folder)) for path in made.files} == FILES
    assert all(path.stat().st_size > 100 for path in made.files)


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


def test_the_page_says_how_it_was_made(written: tuple[Path, Report]) -> None:
    folder, made = written
    page = (folder / "comparison.md").read_text()
    assert page.startswith("# toy on digits\n")
    assert "Trained on 20 images of digits at 32 px, a proxy: memory, FLOPs and step times are those" in page
    assert "1 epoch, recipe short, 20 validation images, 2 seeds." in page
    assert "Budget" not in page and "largest batch" not in page and "Notes" not in page
    (linear,) = [line for line in page.splitlines() if line.startswith("| `linear`")]
    cells = [cell.strip() for cell in linear.split("|")]
    each = made.rows[1]
    assert f"{100 * each['accuracy']:.1f} ± {100 * each['accuracy_std']:.1f}" in cells
    assert f"{each['peak_full_over_this']:.2f}x less" in cells
    assert f"{each['step_seconds_over_full']:.2f}x" in cells
    assert (folder / "figures/comparison.png").is_file()


def test_a_paper_gets_the_table_too(written: tuple[Path, Report]) -> None:
    folder, made = written
    text = (folder / "comparison.tex").read_text()
    assert "\\toprule" in text and "MiB" not in text.split("\\toprule")[1]
    assert "mean" not in text.split("\\toprule")[1] and "2 seeds" in text.split("\\toprule")[0]
    (linear,) = [line for line in text.splitlines() if line.startswith("\\texttt{linear}")]
    assert f"\\textbf{{{format_mb(made.rows[1]['peak_bytes'])}}}" in linear
    highest = max(made.rows, key=lambda each: each["accuracy"])
    (first,) = [line for line in text.splitlines() if line.startswith(f"\\texttt{{{highest['method']}}}")]
    accuracy = f"{100 * highest['accuracy']:.1f} $\\pm$ {100 * highest['accuracy_std']:.1f}"
    assert f"\\textbf{{{accuracy}}}" in first


def test_images_of_the_own_size_are_no_proxy(make_comparison: MakeComparison) -> None:
    from bsr_explorer.report.comparison import described

    made = make_comparison()
    assert "proxy" not in described(replace(made, fidelity={**made.fidelity, "image_size": 48}))[1]


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


def test_what_went_wrong_is_told(compared_folder: Path) -> None:
    records = read_records(compared_folder)
    for number in (1, 4):
        lost = {"accuracy": None, "measured": None, "reason": "the loss was nan"}
        write_record(compared_folder, number, replace(records[number], status="diverged", **lost))
    assert records[3].measured is not None
    write_record(
        compared_folder, 3, replace(records[3], measured={**records[3].measured, "fault": "far off"})
    )
    times = read_step_times(compared_folder)
    key = records[2].key
    seconds = {k: taken for k, taken in times.seconds.items() if k != key}
    StepTimes(seconds, {key: "RuntimeError: no memory"}).write(compared_folder)
    made = report(compared_folder)
    assert made.notes == [
        "full, seed 1: far off",
        "linear, seed 0: diverged, the loss was nan",
        "linear, seed 1: diverged, the loss was nan",
        "last(k=1): steps were not timed, RuntimeError: no memory",
    ]
    assert [(each["status"], each["runs"]) for each in made.rows] == [
        ("finished", 2),
        ("diverged", 0),
        ("finished", 2),
    ]
    assert made.rows[2]["step_seconds"] is None
    page = (compared_folder / "comparison.md").read_text()
    assert all(f"- {note}\n" in page for note in made.notes)


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


def test_what_is_left_open_is_said(make_comparison: MakeComparison) -> None:
    from bsr_explorer.report.comparison import described

    said = described(make_comparison(fidelity=Fidelity(recipe="short")))[1]
    assert said.startswith(
        "To be trained on all images of digits at 48 px; the recipe’s epochs, recipe short, all"
    )


def test_nothing_is_written_of_what_is_only_predicted(
    make_comparison: MakeComparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = predicted(make_comparison())
    assert (made.files, list(tmp_path.iterdir())) == ([], [])
    assert [(each["status"], each["accuracy"]) for each in made.rows] == [("not run here", None)] * 3
    assert [each["peak_bytes"] for each in made.rows] == [e.peak_bytes for e in made.comparison.entries]


def test_the_published_accounting_stands_beside_the_truth(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    make_comparison("full, last(k=1), mesa").write(compared_folder)
    made = report(compared_folder)
    full, last, mesa = made.rows
    assert full["published_bytes"] > last["published_bytes"]
    assert last["published_full_over_this"] == full["published_bytes"] / last["published_bytes"]
    assert (mesa["published_bytes"], mesa["published_full_over_this"]) == (None, None)
    page = (compared_folder / "comparison.md").read_text()
    row = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert f"{last['published_full_over_this']:.2f}x less" in row["last(k=1)"]
    assert [cell.strip() for cell in row[made.rows[2]["method"]].split("|")].count("—") == 3
    assert "Published: the BSR paper's own accounting" in page


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


def test_neither_torch_nor_optuna_is_imported() -> None:
    code = (
        "import bsr_explorer.report.comparison, sys; "
        "assert 'matplotlib' in sys.modules; "
        "assert not {'torch', 'optuna', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the figure -----------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(figure, axes) of each figure that is made."""
    made: list[tuple[Any, Any]] = []
    real = style.figure

    @contextmanager
    def watched(*size: float, **options: Any) -> Iterator[tuple[Any, Any]]:
        with real(*size, **options) as both:
            made.append(both)
            yield both

    monkeypatch.setattr(style, "figure", watched)
    return made


def marks(axes: Any) -> set[tuple[float, float]]:
    return {
        (float(x), float(y))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() not in ("None", None, "_")
    }


def test_every_method_is_a_labelled_point(compared_folder: Path, drawn: list[Any]) -> None:
    made = report(compared_folder)
    _, axes = drawn[0]
    assert marks(axes) == {(each["peak_bytes"] / 1e6, 100 * each["accuracy"]) for each in made.rows}
    assert {text.get_text() for text in axes.texts} == {"full", "linear", "last(k=1)"}
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "peak memory of a training step (MB)"
    assert axes.get_ylabel() == "validation accuracy (%), 2 seeds"


def test_the_budget_is_a_line(
    compared_folder: Path, make_comparison: MakeComparison, drawn: list[Any]
) -> None:
    make_comparison(budget="2500KB").write(compared_folder)
    report(compared_folder)
    _, axes = drawn[0]
    assert [2.5, 2.5] in [list(line.get_xdata()) for line in axes.lines]
    assert "budget 2500KB" in {text.get_text() for text in axes.texts}


def test_records_of_other_methods_are_left_out(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    make_comparison("last(k=1)", seeds=1).write(compared_folder)
    (line,) = report(compared_folder).lines
    assert [(run.method, run.seed) for run in line.runs] == [("last(k=1)", 0)]


def test_json_of_the_file_is_plain(compared_folder: Path) -> None:
    stored = json.loads((compared_folder / "comparison.json").read_text())
    assert [entry["method"] for entry in stored["entries"]] == ["full", "linear", "last(k=1)"]


# --- the authors' protocol ------------------------------------------------------------------------------

MARK = AUTHORS.mark


@pytest.fixture
def by_authors(compared_folder: Path) -> Report:
    """The report of a comparison by the authors' protocol."""
    path = compared_folder / "comparison.json"
    values = json.loads(path.read_text())
    values["fidelity"]["protocol"] = "authors"
    path.write_text(json.dumps(values))
    return report(compared_folder)


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
