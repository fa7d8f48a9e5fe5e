"""The study of a tiny language model: its text, its measure, and a small run that goes on."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks.rows import read_rows
from studies.language import text, train

KEPT = Path(__file__).parents[2] / "reports" / "examples" / "language" / "table.csv"


@pytest.mark.thorough
def test_python_says_enough_of_itself() -> None:
    said = text.docstrings()
    assert len(said) > 500_000 and "iterable" in said
    assert text.docstrings() == said


@pytest.mark.thorough
def test_a_small_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"--steps 3 --tuning-steps 2 --seeds 1 --methods linear full --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["train.py", *words.split()])
    train.main()
    rows = read_rows(tmp_path / "table.csv")
    assert [row["method"] for row in rows] == ["none", "linear", "full"]
    assert all(1 < float(row["perplexity a byte"]) < 400 for row in rows)
    assert all(math.isfinite(float(row["seconds"])) for row in rows[1:])
    assert all(row["peak off"] == "0" for row in rows[1:])
    train.main()
    assert read_rows(tmp_path / "table.csv") == rows


def test_the_table_says_that_training_helps() -> None:
    rows = read_rows(KEPT)
    before = next(float(row["perplexity a byte"]) for row in rows if row["method"] == "none")
    full = [float(row["perplexity a byte"]) for row in rows if row["method"] == "full"]
    assert full and max(full) < before
    assert {row["peak off"] for row in rows if row["method"] != "none"} == {"0"}
