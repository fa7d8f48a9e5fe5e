"""``bsr-explore confirm``: what it trains, shows and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.store.records import read_records

Cli = Callable[..., Any]

FEW = ("--train-size", "20", "--val-size", "20", "--cache", "none")


def test_the_front_is_trained_at_the_target_and_both_orders_are_shown(cli: Cli, study_folder: Path) -> None:
    done = cli("confirm", study_folder, *FEW, "--rivals", "2")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "said at 32 px by 20 images; now at 48 px by 20 images" in said
    assert "between said and reached." in said or "for a rank correlation." in said
    assert "* recommended: " in said
    folder = study_folder / "confirmed"
    records = read_records(folder)
    rows = list(csv.DictReader((folder / "confirmed.csv").open()))
    assert len(rows) == len(records) >= 3
    assert {float(row["accuracy_reached"]) for row in rows} == {
        round(record.accuracy or 0, 6) for record in records.values()
    }
    assert (folder / "confirmed.md").read_text().startswith("# Said and reached\n")

    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    again = cli("confirm", study_folder, *FEW, "--rivals", "2", "--json")
    assert again.code == 0, again.err
    answer = json.loads(again.out)
    assert [each["trial"] for each in answer["configurations"]] == [int(row["trial"]) for row in rows]
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before  # nothing was trained again


def test_a_dry_run_trains_and_writes_nothing(cli: Cli, study_folder: Path) -> None:
    done = cli("confirm", study_folder, *FEW, "--dry-run")
    assert done.code == 0, done.err
    assert "Nothing was trained or written (--dry-run)." in done.out
    assert not (study_folder / "confirmed").exists()


def test_an_unfinished_study_is_refused(cli: Cli, study_folder: Path) -> None:
    (study_folder / "study.db").unlink(missing_ok=True)
    (study_folder / "records" / "0006.json").unlink()
    done = cli("confirm", study_folder, *FEW)
    assert done.code == 2
    assert f"STUDY: {study_folder} is not finished; run its search to the end first" in " ".join(
        done.err.split()
    )
    assert len(done.err.strip().splitlines()) == 1
    assert not (study_folder / "confirmed").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "0"), "--seeds: 0 must be a whole number of at least 1"),
        (("--rivals", "-1"), "--rivals: -1 must be a whole number of at least 0"),
        (("--epochs", "0"), "--epochs: 0 must be a whole number of at least 1"),
        (("--recipe", "shrt"), "--recipe: unknown value 'shrt' (did you mean 'short'?)"),
        (("--cache", "4"), "--cache: '4' has no unit"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    cli: Cli, study_folder: Path, words: tuple[str, ...], said: str
) -> None:
    done = cli("confirm", study_folder, *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (study_folder / "confirmed").exists()


def test_what_is_no_study_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("confirm", tmp_path / "none")
    assert done.code == 2
    assert "STUDY: " in done.err
