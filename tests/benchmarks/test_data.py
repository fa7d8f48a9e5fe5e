"""The benchmark of loaders: the same images by each, and a figure of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import data

pytestmark = pytest.mark.thorough  # a benchmark trains, or is a process of its own


def test_the_same_images_are_loaded_by_each(tmp_path: Path) -> None:
    data.write(tmp_path, 40)
    batches = {name: torch.cat(list(way())) for name, way in data.loaders(tmp_path, 32, "none").items()}
    sums = {name: images.sum((1, 2, 3)).sort().values for name, images in batches.items()}
    assert {len(images) for images in batches.values()} == {len(batches["ours"])}
    for name in ("ours, first", "ours, not kept"):
        assert torch.equal(sums[name], sums["ours"])
    torch.testing.assert_close(sums["peer, workers"], sums["peer"])


def test_it_prints_images_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["data.py", "--images", "40", "--size", "32", "--rounds", "1", "--json"])
    data.main()
    said = json.loads(capsys.readouterr().out)
    assert [(row["augment"], row["loader"]) for row in said["rows"]] == [
        *(("none", name) for name in ("peer", "peer, workers", "ours, first", "ours", "ours, not kept")),
        *(("crop_flip", name) for name in ("peer", "peer, workers", "ours")),
    ]
    assert all(row["images_a_second"] > 0 for row in said["rows"])
