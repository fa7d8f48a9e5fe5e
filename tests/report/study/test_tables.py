"""Tables: one row a trial, unscaled; and the front, scaled for reading."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bsr_explorer.report.front import front, points
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.report.study.tables import (
    front_frame,
    front_latex,
    front_markdown,
    front_text,
    trials_frame,
    write,
)
from bsr_explorer.store.records import read_records

COLUMNS = [
    *("trial", "replica", "status", "method", "accuracy", "counted_bytes", "held_bytes", "saved_bytes"),
    *("peak_bytes", "forward_flops", "train_flops", "image_size", "trained_at"),
    *("trained_saved_bytes_predicted", "trained_saved_bytes_measured"),
    *("trained_peak_bytes_predicted", "trained_peak_bytes_measured", "seconds", "images_trained"),
    *("seed", "weights", "reason"),
]


def test_every_trial_has_a_row(finished_once: Path) -> None:
    records = read_records(finished_once)
    records[9] = replace(
        records[0], status="failed", accuracy=None, measured=None, predicted={}, reason="why not", weights=""
    )
    frame = trials_frame(records)
    assert list(frame.columns) == COLUMNS
    assert list(frame["trial"]) == [*range(7), 9]
    assert list(frame["status"]) == ["finished"] * 7 + ["failed"]
    assert list(frame["accuracy"][:7]) == [
        record.accuracy for number, record in records.items() if number < 7
    ]
    assert list(frame["counted_bytes"][:7]) == list(frame["peak_bytes"][:7])
    assert list(frame["trained_saved_bytes_measured"][:7]) == list(frame["trained_saved_bytes_predicted"][:7])
    peaks = zip(
        frame["trained_peak_bytes_measured"][:7], frame["trained_peak_bytes_predicted"][:7], strict=True
    )
    assert all(measured == pytest.approx(predicted, rel=1e-3) for measured, predicted in peaks)
    assert set(frame["image_size"]) == {48}
    assert set(frame["trained_at"]) == {32}
    last = frame.iloc[-1]
    assert last["reason"] == "why not"
    assert all(
        pd.isna(last[column]) for column in ("accuracy", "saved_bytes", "trained_saved_bytes_measured")
    )


def test_bytes_in_the_table_are_whole_numbers(finished_once: Path) -> None:
    text = trials_frame(read_records(finished_once)).to_csv(index=False)
    frame = pd.read_csv(StringIO(text))
    for column in (
        "counted_bytes",
        "held_bytes",
        "saved_bytes",
        "train_flops",
        "trained_saved_bytes_measured",
        "trained_peak_bytes_measured",
        "peak_bytes",
    ):
        assert frame[column].dtype == "int64"


def test_bytes_stay_whole_numbers_beside_a_failed_trial(finished_once: Path) -> None:
    records = read_records(finished_once)
    records[9] = replace(records[0], status="failed", accuracy=None, measured=None)
    text = trials_frame(records).to_csv(index=False)
    assert f",{(records[0].measured or {})['saved_bytes']}," in text


def test_the_front_is_scaled(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    frame = front_frame(ahead)
    assert list(frame.columns) == [
        *("trial", "seeds", "accuracy (%)", "std (points)", "memory (MB)", "memory (MiB)", "saving (×)"),
        *("train GFLOPs/step", "compute saving (×)", "method"),
    ]
    for row, point in zip(frame.to_dict("records"), ahead, strict=True):
        assert row["trial"] == point.number
        assert row["accuracy (%)"] == pytest.approx(100 * point.score)
        assert (row["seeds"], row["std (points)"]) == (1, None)
        assert row["memory (MB)"] == point.bytes / 1e6
        assert row["memory (MiB)"] == point.bytes / 2**20
        assert row["saving (×)"] == point.full["counted_bytes"] / point.bytes
        assert row["method"] == point.method
    assert frame["memory (MB)"].is_monotonic_increasing
    assert frame["accuracy (%)"].is_monotonic_increasing


def test_small_values_have_two_digits(finished_once: Path) -> None:
    """A step of the toy model takes 0.006 GFLOPs, which is not 0.0; the CSV has all of it."""
    ahead = front(points(read_records(finished_once)))
    flops = [point.record.predicted["train_flops"] / 1e9 for point in ahead]
    assert list(front_frame(ahead)["train GFLOPs/step"]) == flops
    shown = front_text(ahead)
    for name in ("memory (MB)", "memory (MiB)", "train GFLOPs/step"):
        for text, value in zip(shown[name], front_frame(ahead)[name], strict=True):
            assert float(text) == pytest.approx(value, rel=0.05)
            assert float(f"{float(text):.1e}") == pytest.approx(float(f"{value:.1e}"))


def test_the_front_says_how_sure_it_is(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    sure = replace(ahead[-1], score=0.85, deviation=0.0123, seeds=3)
    frame = front_frame([*ahead[:-1], sure])
    assert list(frame["seeds"]) == [1] * (len(ahead) - 1) + [3]
    assert list(frame["std (points)"])[-1] == pytest.approx(1.23)
    assert frame["std (points)"].isna().sum() == len(ahead) - 1
    text = front_markdown([*ahead[:-1], sure])
    assert "85.00 ± 1.23" in text.splitlines()[-1]
    assert [cell.strip() for cell in text.splitlines()[0].split("|")][1:4] == [
        *("trial", "seeds", "accuracy (%)")
    ]
    assert "seeds" not in front_markdown(ahead)
    assert "±" not in front_markdown(ahead)


def cells(text: str) -> list[list[str]]:
    """The rows between the rules of a LaTeX table."""
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [[cell.strip() for cell in row.removesuffix(" \\\\").split("&")] for row in body.splitlines()]


def test_the_latex_table_says_what_the_markdown_one_says(finished_once: Path) -> None:
    found = Findings.read(finished_once)
    text = front_latex(found)
    for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\usepackage{booktabs,graphicx}"):
        assert rule in text
    assert f"accuracy: one seed; hypervolume {found.hypervolume:.4f}: " in text
    rows = cells(text)
    assert len(rows) == len(found.front)
    for row, point in zip(rows, found.front, strict=True):
        assert row[0] == str(point.number)
        assert f"{100 * point.score:.2f}" in row[1]
        expression = point.method.replace("{", "\\{").replace("}", "\\}").replace("_", "\\_")
        assert row[-1] == f"\\texttt{{{expression}}}"


def test_the_best_of_a_column_is_bold(finished_once: Path) -> None:
    rows = cells(front_latex(Findings.read(finished_once)))
    bold = [[cell.startswith("\\textbf{") for cell in row] for row in rows]
    assert [row[1] for row in bold] == [False] * (len(rows) - 1) + [True]  # accuracy: the last of a front
    assert [row[2] for row in bold] == [True] + [False] * (len(rows) - 1)  # memory: the first
    assert not any(row[0] or row[-1] for row in bold)


def test_a_caption_says_how_many_seeds(finished_once: Path) -> None:
    records = read_records(finished_once)
    best = max(records, key=lambda number: records[number].accuracy or 0)
    for replica in (1, 2):
        study = {**records[best].study, "replica": replica}
        records[6 + replica] = replace(records[best], accuracy=0.8 + replica / 100, study=study)
    text = front_latex(Findings(records))
    assert "mean $\\pm$ standard deviation over 2 seeds" in text
    assert "\\textbf{81.50 $\\pm$ 0.71}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_takes_the_table(finished_once: Path, tmp_path: Path) -> None:
    write(Findings.read(finished_once), tmp_path)
    page = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\\input{front.tex}\\end{document}"
    (tmp_path / "page.tex").write_text(page)
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "page.pdf").stat().st_size > 1000
