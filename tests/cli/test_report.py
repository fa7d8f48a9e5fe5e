"""``bsr-explore report``: written anew from the records, and told."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bsr_explorer.pareto import hypervolume
from bsr_explorer.report import style
from bsr_explorer.report.choice import recommend
from bsr_explorer.report.figures import FIGURES
from bsr_explorer.report.front import front, points
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.units import format_mb, format_mib

Cli = Callable[..., Any]


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures take seconds, where it does not matter which are drawn."""
    title = "accuracy against memory"
    monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", {title: FIGURES[title]})


def test_the_front_is_shown_and_every_file_is_named(cli: Cli, study_folder: Path) -> None:
    done = cli("report", study_folder)
    assert (done.code, done.err) == (0, "")
    ahead = front(points(read_records(study_folder)))
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for point in ahead:
        start = f"{100 * point.score:.1f} {format_mb(point.bytes)} {format_mib(point.bytes)}"
        assert any(line.startswith(start) for line in lines)
    chosen = recommend(ahead).point
    assert f"Recommended: {chosen.method}" in lines
    assert f"to train it in full: bsr-explore train {study_folder} --select recommended" in lines
    volume = hypervolume([p.bytes for p in ahead], [p.score for p in ahead], 1_400_000)
    assert f"hypervolume {volume:.4f}: the area under the front up to the budget, of 1" in lines
    named = [line.removeprefix(f"{study_folder}/") for line in lines[lines.index("Written:") + 1 :]]
    figures = (
        "front",
        "memory_by_block",
        "memory_over_a_step",
        "blocks",
        "saving",
        "batch_size",
        "hypervolume",
    )
    assert set(named) == {
        *("report.{md,html}", "front.{csv,tex}", "trials.csv"),
        *(f"figures/{figure}.{{png,pdf,svg}}" for figure in (*figures, "calibration")),
    }


@pytest.mark.thorough
@pytest.mark.usefixtures("one_figure")
def test_figures_can_be_made_for_a_venue(cli: Cli, study_folder: Path) -> None:
    assert cli("report", study_folder, "--venue", "neurips").code == 0
    pdf = (study_folder / "figures" / "front.pdf").read_bytes()
    assert cli("report", study_folder).code == 0
    assert (study_folder / "figures" / "front.pdf").read_bytes() != pdf
    done = cli("report", study_folder, "--venue", "nips")
    assert (done.code, done.err.startswith("error: --venue: ")) == (2, True)


@pytest.mark.usefixtures("one_figure")
def test_records_alone_are_enough(cli: Cli, study_folder: Path) -> None:
    (study_folder / "study.toml").unlink()
    (study_folder / "study.db").unlink()
    done = cli("report", study_folder)
    assert done.code == 0
    assert "study.db" not in done.out
    assert (study_folder / "report.md").exists()


def test_there_is_one_hypervolume(cli: Cli, study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure, the status and every file of the report say that of the front by its fresh seeds."""
    ends = []

    def watched(found: Findings, folder: Path) -> list[Path]:
        with monkeypatch.context() as patch:
            patch.setattr(
                style, "save", lambda figure, *_: ends.append(figure.axes[0].lines[0].get_ydata()[-1]) or []
            )
            return FIGURES["hypervolume against cost"](found, folder)

    monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", {"hypervolume against cost": watched})
    single = points(read_records(study_folder))
    best = front(single)[-1]
    for number, accuracy in ((7, 0.10), (8, 0.12)):
        study = {**best.record.study, "replica": number - 6}
        write_record(study_folder, number, replace(best.record, accuracy=accuracy, study=study))
    known = points(read_records(study_folder))
    area = hypervolume([p.bytes for p in known], [p.score for p in known], 1_400_000)
    said = f"hypervolume {area:.4f}"
    assert said in cli("report", study_folder).out
    assert said in cli("status", study_folder).out
    assert json.loads(cli("status", study_folder, "--json").out)["hypervolume"] == pytest.approx(area)
    for name in ("report.md", "report.html", "front.tex"):
        assert said in (study_folder / name).read_text().lower(), name
    assert ends == [pytest.approx(area)]
    assert area != pytest.approx(hypervolume([p.bytes for p in single], [p.score for p in single], 1_400_000))


@pytest.mark.usefixtures("one_figure")
def test_means_are_shown_with_their_deviation(cli: Cli, study_folder: Path) -> None:
    best = front(points(read_records(study_folder)))[-1]
    for number, accuracy in ((7, 0.90), (8, 0.95), (9, 1.0)):
        study = {**best.record.study, "replica": number - 6}
        write_record(study_folder, number, replace(best.record, accuracy=accuracy, study=study))
    done = cli("report", study_folder)
    assert done.code == 0
    assert any(line.startswith("95.0 ± 5.0") for line in map(str.strip, done.out.splitlines()))
    assert "; ± is the standard deviation over 3 fresh seeds\n" in done.out


# --- elsewhere ------------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_writing(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = errno.EROFS) -> None:
    """Nothing below a folder can be written, as if it were mounted read-only."""
    access, statvfs, mkstemp, mkdir = os.access, os.statvfs, tempfile.mkstemp, Path.mkdir

    def refuse(path: Any) -> None:
        if Path(path).is_relative_to(folder):
            raise OSError(code, os.strerror(code), str(path))

    def checked(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **keys: Any) -> Any:
            refuse(keys.get("dir") or arguments[0])
            return make(*arguments, **keys)

        return made

    def asked(path: Any, mode: int) -> bool:
        writing = bool(mode & os.W_OK)
        return access(path, mode) and not (writing and Path(path).is_relative_to(folder))

    monkeypatch.setattr(tempfile, "mkstemp", checked(mkstemp))
    monkeypatch.setattr(Path, "mkdir", checked(mkdir))
    monkeypatch.setattr(os, "access", asked)
    if code == errno.EROFS:
        monkeypatch.setattr(
            os,
            "statvfs",
            lambda path: SimpleNamespace(
                f_flag=os.ST_RDONLY if Path(path).is_relative_to(folder) else statvfs(path).f_flag
            ),
        )


@pytest.mark.usefixtures("one_figure")
def test_a_study_that_cannot_be_written_is_reported_elsewhere(
    cli: Cli, study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(study_folder)
    without_writing(study_folder, monkeypatch)
    done = cli("report", study_folder, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert everything(study_folder) == before
    made = set(everything(tmp_path / "out"))
    assert {Path("report.md"), Path("report.html"), Path("front.csv"), Path("figures/front.png")} <= made
    assert (
        f"bsr-explore train {study_folder} --select recommended" in done.out
    )  # what goes on, goes on from the study
    named = " ".join(done.out.split("Written:")[1].split())
    assert named == " ".join(
        f"{tmp_path / 'out'}/{name}"
        for name in ("report.{md,html}", "front.{csv,tex}", "trials.csv", "figures/front.{png,pdf,svg}")
    )


@pytest.mark.thorough
@pytest.mark.usefixtures("one_figure")
def test_a_comparison_is_reported_elsewhere(cli: Cli, compared_folder: Path, tmp_path: Path) -> None:
    before = everything(compared_folder)
    done = cli("report", compared_folder, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert everything(compared_folder) == before
    assert {"comparison.md", "comparison.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert f"  {compared_folder}" not in done.out.split("Written:")[1]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EROFS, "is on a read-only file system"),
        (errno.EACCES, "cannot be written (no permission for {})"),
    ],
)
def test_why_a_study_cannot_be_written_is_said(
    cli: Cli, study_folder: Path, code: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_writing(study_folder, monkeypatch, code)
    done = cli("report", study_folder)
    assert (done.code, done.out) == (2, "")
    said = f"STUDY: {study_folder} {why.format(study_folder)}; write the report elsewhere with --out FOLDER"
    assert done.err == f"error: {said}\n"


@pytest.mark.usefixtures("one_figure")
def test_a_disk_that_became_read_only_is_called_so(
    cli: Cli, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_writing(study_folder, monkeypatch)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    done = cli("report", study_folder)
    assert done.code == 2
    assert "is on a read-only file system" in done.err
