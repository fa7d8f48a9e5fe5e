"""The study of dense prediction: its images, its quality, and that a head learns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.rows import read_rows
from bsr_explorer.config import Config
from studies.dense import train


def test_labels_lie_where_ink_is() -> None:
    images, labels = train.canvases(6, 48, training=True)
    assert images.shape == (6, 3, 48, 48) and labels.shape == (6, 48, 48)
    assert images[:, 0][labels > 0].min() > images[:, 0][labels == 0].median()
    assert set(labels.unique().tolist()) <= set(range(train.CLASSES))
    assert all(2 <= len(label.unique()) <= 5 for label in labels)


def test_images_are_the_same_each_time_and_others_for_validation() -> None:
    once, again = (train.canvases(3, 48, training=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    assert not torch.equal(once[0], train.canvases(3, 48, training=False)[0])


def test_mean_iou_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1, 1]])
    assert train.mean_iou(labels, labels) == 1.0
    predicted = torch.tensor([[0, 1, 1, 1]])  # class 0: 1 of 2, class 1: 2 of 3; the others do not occur
    assert train.mean_iou(predicted, labels) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.thorough
def test_a_head_learns() -> None:
    config = Config('bsr_explorer.models.dense:linear(backbone="deit_t")', 32, 11, 8, method="full")
    data = train.canvases(32, 32, training=True)
    fresh = train.fit(config, "linear", "deit_t", "random", data, epochs=0)
    trained = train.fit(config, "linear", "deit_t", "random", data, epochs=8)
    scores = [train.mean_iou(train.predictions(model, data[0]), data[1]) for model in (fresh, trained)]
    assert scores[1] > scores[0] + 0.02


def test_the_script_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--backbone deit_t --weights random --size 32 --images 8 --epochs 1 --heads linear"
    for methods in ("linear", "linear bitfit"):
        monkeypatch.setattr(
            sys, "argv", ["train.py", *flags.split(), "--methods", *methods.split(), "--out", str(tmp_path)]
        )
        train.main()
    rows = read_rows(tmp_path / "trainings.csv")
    assert [row["method"] for row in rows] == ["linear", "bitfit"]
    assert {row[key] for row in rows for key in ("saved off", "peak off", "FLOPs off")} == {"0"}
    assert "mean IoU %" in capsys.readouterr().out
