"""What a strip shows of dropped and of merged patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bsr_explorer.report.figures.tokens import GREY, Row, draw, seen

IMAGE = np.linspace(0.0, 1.0, 8 * 8 * 3).reshape(8, 8, 3)


def test_what_lives_is_as_it_was_and_what_was_dropped_is_grey() -> None:
    shown = seen(IMAGE, np.array([[0, -1], [1, 2]]))
    assert np.array_equal(shown[:4, :4], IMAGE[:4, :4])
    assert np.array_equal(shown[4:], IMAGE[4:])
    dropped = shown[:4, 4:]
    assert abs(dropped - GREY).max() < 0.1
    assert dropped.std() < 0.2 * IMAGE[:4, 4:].std()


def test_patches_of_one_token_have_one_colour() -> None:
    shown = seen(IMAGE, np.array([[0, 1], [1, 0]]))
    for one, other in ((shown[:4, :4], shown[4:, 4:]), (shown[:4, 4:], shown[4:, :4])):
        assert len(np.unique(np.concatenate([one.reshape(-1, 3), other.reshape(-1, 3)]), axis=0)) == 1
    assert not np.array_equal(shown[0, 0], shown[0, 4])


def test_a_row_a_block_and_a_column_an_image(drawn: list[Any], tmp_path: Path) -> None:
    places = np.zeros((2, 2, 2), dtype=np.int64)
    file = draw(np.stack([IMAGE, IMAGE]), [Row("block 3", places)], "drop", tmp_path / "strip.png")
    assert [path.name for path in tmp_path.iterdir()] == [file.name] == ["strip.png"]
    _, axes = drawn[0]
    assert axes.shape == (2, 2)
    assert [row[0].get_ylabel() for row in axes] == ["image", "block 3"]
