"""What is known before any training of a table's task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bsr_explorer.methods import parse_method
from studies.accuracy_table import hints, make, small_vit


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("last(k=3)", "bsr(blocks=(), keep={}, fuse=False)"),
        ("bsr(blocks=(3,), keep={6: 0.5}, fuse=False)+mesa", "bsr(blocks=(), keep={6: 0.5}, fuse=False)"),
        ("bsr(faithful=False)", "bsr(blocks=(), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True, faithful=False)"),
    ],
)
def test_a_schedule_is_that_of_the_tokens_alone(method: str, schedule: str) -> None:
    assert hints.schedule_of(parse_method(method)) == str(parse_method(schedule))


def test_labels_that_follow_from_features_have_more_evidence() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    noise = generator.normal(size=(100, 12))
    scores = [
        hints.logme(noise + strength * np.eye(12)[labels], labels) for strength in (0.0, 1.0, 3.0, 10.0)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] - 0.5


def test_evidence_is_that_of_the_normal_distribution_it_is_of() -> None:
    """With the precisions that it found, labels are normal with covariance 1/beta + features features'/alpha; no other
    precisions make them likelier."""
    generator = np.random.default_rng(1)
    found = generator.normal(size=(30, 5))
    labels = (found[:, 0] + 0.5 * generator.normal(size=30) > 0).astype(np.int64)

    def likelihood(y: np.ndarray, alpha: float, beta: float) -> float:  # type: ignore[type-arg]
        covariance = np.eye(30) / beta + found @ found.T / alpha
        return float(
            -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1])
        )

    grid = np.geomspace(0.1, 100, 60)
    best = [
        max(likelihood((labels == label).astype(float), a, b) for a in grid for b in grid) for label in (0, 1)
    ]
    assert hints.logme(found, labels) == pytest.approx(np.mean(best) / 30, abs=2e-3)


def test_the_head_fits_and_may_have_more_outputs_than_there_are_classes() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 20)
    found = generator.normal(scale=0.1, size=(60, 8)) + np.eye(8)[labels]
    head = torch.nn.Linear(8, 10)
    hints._fit_head(head, found, labels)
    said = head(torch.from_numpy(found).float()).argmax(dim=1).numpy()
    assert (said == labels).all()


@pytest.mark.thorough
def test_hints_are_written_beside_a_table(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "some.csv"
    table.write_text(
        'method,replica,accuracy,images_trained,seconds,history\nfull,0,0.5,10,1,0.5\n"bsr",0,0.5,10,1,0.5\n'
    )
    task = make.Task(table, weights, 2, 0)
    monkeypatch.setattr(make, "TASKS", {"digits": task})
    monkeypatch.setattr(sys, "argv", ["hints.py", "--train-size", "160"])
    hints.main()
    found = json.loads((tmp_path / "some_hints.json").read_text())
    assert len(found["sensitivity"]) == small_vit.DEPTH
    assert all(value > 0 for value in found["sensitivity"])
    assert set(found["transfer"]) == {hints.schedule_of(parse_method(name)) for name in ("full", "bsr")}
