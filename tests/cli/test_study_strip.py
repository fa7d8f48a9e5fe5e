"""The strip of tokens in a study's report: drawn where the trained weights are, else how to get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from bsr_explorer.cli import study_report
from bsr_explorer.cli.study_strip import strip_of
from bsr_explorer.config import Fidelity
from bsr_explorer.report.page import page
from bsr_explorer.report.study.strip import Strip
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record, read_records

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

DROPS = "bsr(blocks=(1,), keep={1: 0.5, 2: 0.5}, fuse=True)"


def _found(folder: Path, method: str) -> tuple[Any, Record]:
    """Findings of which trial 0 is recommended, of this method."""
    record = read_records(folder)[0]
    record = replace(record, config={**record.config, "method": method})
    point = SimpleNamespace(number=0, record=record)
    recommendation = SimpleNamespace(point=point)
    return SimpleNamespace(study=record.study, recommendation=recommendation, unknown=""), record


def test_without_trained_weights_it_says_how_to_get_it(study_folder: Path, tmp_path: Path) -> None:
    found, _ = _found(study_folder, DROPS)
    strip = strip_of(found, study_folder, tmp_path)
    assert strip is not None
    assert strip.file is None
    assert "A search keeps no weights" in strip.said
    assert strip.commands == (
        f"bsr-explore train {study_folder} --select recommended",
        "bsr-explore tokens runs/toy-study-trial-0 --accuracy",
    )
    assert strip.markdown()[0] == "## Tokens"
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("method", ["last(k=1)", DROPS.replace("fuse=True", "fuse=True, inference=False")])
def test_of_what_keeps_all_tokens_in_the_end_nothing_is_said(
    study_folder: Path, tmp_path: Path, method: str
) -> None:
    assert strip_of(_found(study_folder, method)[0], study_folder, tmp_path) is None


def test_what_was_trained_is_drawn(cli: Cli, study_folder: Path, tmp_path: Path) -> None:
    found, record = _found(study_folder, DROPS)
    experiment = Experiment.of_record("toy-study-trial-0", record, "random")
    few = replace(experiment, fidelity=Fidelity(image_size=48, train_size=12, val_size=12, epochs=1))
    (tmp_path / "toy-study-trial-0.toml").write_text(tomli_w.dumps(few.to_toml()))
    done = cli("train", tmp_path / "toy-study-trial-0.toml", "--out", "runs/toy-study-trial-0")
    assert done.code == 0, done.err
    strip = strip_of(found, study_folder, tmp_path / "figures")
    assert strip is not None
    assert strip.file == tmp_path / "figures" / "tokens.png"
    assert strip.file.is_file()
    assert "as `runs/toy-study-trial-0` was trained" in strip.said
    assert "![patches that live on](figures/tokens.png)" in strip.markdown()
    other, _ = _found(
        study_folder, DROPS.replace("0.5", "0.3")
    )  # another configuration's training is not taken
    again = strip_of(other, study_folder, tmp_path / "other")
    assert again is not None and again.file is None


def test_the_pages_of_a_study_have_it(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsr_explorer.report.study.write.FIGURES", {})
    picture = tmp_path / "tokens.png"
    picture.write_bytes(b"\x89PNG picture")
    for strip in (Strip("How.", ("a <command>",)), Strip("Drawn.", file=picture), None):
        monkeypatch.setattr(
            "bsr_explorer.cli.study_strip.strip_of", lambda found, study, figures, strip=strip: strip
        )
        made = study_report.write_report(study_folder)
        markdown, html = (study_folder / "report.md").read_text(), (study_folder / page.NAME).read_text()
        assert ("## Tokens" in markdown) == ('id="tokens"' in html) == (strip is not None)
        assert ("a &lt;command&gt;" in html) == (strip is not None and bool(strip.commands))
        assert ("data:image/png;base64," in html) == (strip is not None and strip.file is not None)
        assert (picture in made.files) == (strip is not None and strip.file is not None)
