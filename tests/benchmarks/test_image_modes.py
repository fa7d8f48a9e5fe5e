"""The benchmark of Pillow's modes: all of them, and each as good as 8 bits."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import image_modes
from bsr_explorer.data.reading import to_rgb

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains

GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("mode", Image.MODES)
def test_the_same_pixels_give_the_same_colours_in_every_mode(mode: str) -> None:
    greys = np.where(GREYS < 128, 0, 255).astype(np.uint8) if mode == "1" else GREYS
    image = image_modes.in_mode(mode, greys)
    assert image.mode == mode
    read = np.asarray(to_rgb(image)).astype(int)
    assert read.shape == (16, 16, 3)
    # Of LAB, 8 bits a channel do not tell all greys apart.
    assert np.abs(read - greys[..., None]).max() <= (2 if mode == "LAB" else 0)


def test_it_prints_a_row_a_mode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Image, "MODES", ["L", "I;16", "F"])
    monkeypatch.setattr(sys, "argv", ["image_modes.py", "--json"])
    image_modes.main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in rows] == ["L", "I;16", "F"]
    assert len({row["accuracy"] for row in rows} | {row["accuracy_8_bits"] for row in rows}) == 1
    assert rows[0]["accuracy"] > 0.75
    assert [row["accuracy_of_convert"] < 0.3 for row in rows] == [False, True, True]
    assert image_modes.table(rows).count("\n| ") == 3
