"""The study of a tiny language model: its text, its measure, and a small run that goes on."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.rows import read_rows
from studies.language import text, train

KEPT = Path(__file__).parents[2] / "reports" / "examples" / "language" / "table.csv"


@pytest.mark.thorough
def test_python_says_enough_of_itself() -> None:
    said, topics = text.docstrings(), text.topics()
    assert len(said) > 500_000 and "iterable" in said
    assert len(topics) > 300_000 and "expression" in topics
    assert text.docstrings() == said


def test_rows_follow_one_another_and_the_last_are_held_out() -> None:
    rows = text.sequences("abcdefghij" * 3, 4)
    assert rows.shape == (6, 5) and bytes(rows.flatten().tolist()) == b"abcdefghij" * 3
    kept, held_out = text.parted(rows, 1 / 3)
    assert len(kept) == 4 and torch.equal(held_out, rows[4:])


class Knowing(nn.Module):
    """Says with certainty that the next byte is the one after, in the alphabet."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.strength * nn.functional.one_hot(tokens + 1, 256).float()


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 256.0), (100.0, 1.0)])
def test_perplexity_is_of_all_bytes_for_who_knows_nothing_and_1_for_who_knows_all(
    strength: float, expected: float
) -> None:
    rows = text.sequences("abcdefgh" * 70, 7)
    assert train.perplexity(Knowing(strength), rows) == pytest.approx(expected, rel=1e-4)


@pytest.mark.thorough
def test_a_small_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"--steps 3 --tuning-steps 2 --seeds 1 --methods linear full --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["train.py", *words.split()])
    train.main()
    rows = read_rows(tmp_path / "table.csv")
    assert [row["method"] for row in rows] == ["none", "linear", "full"]
    assert all(1 < float(row["perplexity a byte"]) < 400 for row in rows)
    assert all(math.isfinite(float(row["seconds"])) for row in rows[1:])
    train.main()
    assert read_rows(tmp_path / "table.csv") == rows


def test_the_table_says_that_training_helps() -> None:
    rows = read_rows(KEPT)
    before = next(float(row["perplexity a byte"]) for row in rows if row["method"] == "none")
    full = [float(row["perplexity a byte"]) for row in rows if row["method"] == "full"]
    assert full and max(full) < before
    assert {row["peak off"] for row in rows if row["method"] != "none"} == {"0"}
