"""Layouts: what comes out of the packed bytes is what went in, and steps count what is there."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsr_explorer.cli.study_report import layout_of
from bsr_explorer.report.page import page as pages
from bsr_explorer.report.page.layout import Beside, Layout, Part
from bsr_explorer.report.study.findings import Findings

pytestmark = pytest.mark.thorough  # a browser opens the page

MASKS = np.array([[False, False], [True, False], [False, True], [True, True]])
SCHEDULES = ((), False), (((1, 0.5),), True), (((0, 0.7), (1, 0.5)), False)


def made(sizes: Any, **changes: Any) -> Layout:
    """A layout of two blocks, three schedules and two batch sizes."""
    values = np.asarray(sizes, dtype=np.int64).reshape(2, 3, 4)
    whole = Layout(values, MASKS, SCHEDULES, (4, 8), 1, (Beside("full", 4, 77),), 50)
    return replace(whole, **changes)


def unpacked(said: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The bytes of a page, read as ``Layout._packed`` says that they are written."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(said["bytes"])), np.uint8)
    each = planes.reshape(-1, int(np.prod(shape))).astype(np.int64)
    unsigned = sum(plane << (8 * place) for place, plane in enumerate(each))
    steps = np.where(unsigned % 2, -(unsigned + 1) // 2, unsigned // 2).reshape(shape)
    return said["least"] + said["unit"] * steps.cumsum(axis=2).cumsum(axis=1)


@pytest.mark.parametrize(
    "low, high, unit", [(0, 100, 1), (10**12, 2**50, 4096), (5, 6, 1), (2**31, 2**33, 12)]
)
def test_packed_bytes_come_back(low: int, high: int, unit: int) -> None:
    sizes = low + unit * np.random.default_rng(0).integers(0, (high - low) // unit, (2, 3, 4))
    said = made(sizes).to_dict()
    assert (unpacked(said, (2, 3, 4)) == sizes).all()
    assert (said["least"], said["most"]) == (sizes.min(), sizes.max())
    bits = np.frombuffer(zlib.decompress(base64.b64decode(said["masks"])), np.uint8)
    assert [[bool(row >> block & 1) for block in range(2)] for row in bits] == MASKS.tolist()


def test_equal_bytes_are_no_trouble() -> None:
    said = made(np.full(24, 9)).to_dict()
    assert (unpacked(said, (2, 3, 4)) == 9).all()


def test_beside_and_rates_count() -> None:
    assert len(made(range(24))) == 25
    assert len(made(range(24), rates=3)) == 75
    assert made(range(24)).to_dict()["beside"] == [["full", 4, 77]]


def test_what_is_too_large_is_counted_at_steps() -> None:
    """With its ends and the study's own budget among them."""
    layout = made(range(10, 34), budget=20)
    steps = layout.to_dict(most=10)["steps"]
    assert {10, 20, 33} <= set(steps["budgets"])
    place = steps["budgets"].index(20)
    for blocks in range(3):
        of_blocks = layout.bytes[:, :, MASKS.sum(axis=1) == blocks]
        for side, rows in enumerate(([0], [1, 2])):
            assert steps["counts"][blocks][side][place] == (of_blocks[:, rows] <= 20).sum()
            assert steps["counts"][blocks][side][-1] == of_blocks[:, rows].size
            assert steps["least"][blocks][side] == of_blocks[:, rows].min()


def test_several_grids_are_packed_one_by_one_and_counted_together() -> None:
    second = Part(np.arange(100, 118).reshape(2, 3, 3), MASKS[1:], SCHEDULES, "+mesa(bits=8)")
    layout = made(range(10, 34), more=(second,))
    said = layout.to_dict()
    assert len(layout) == said["size"] == 24 + 18 + 1
    assert (said["least"], said["most"], said["base"]) == (10, 117, 10)
    (other,) = said["more"]
    assert (other["added"], other["base"]) == ("+mesa(bits=8)", 100)
    assert (unpacked({**other, "least": other["base"]}, (2, 3, 3)) == second.bytes).all()
    assert "added" not in said
    steps = layout.to_dict(most=10)["steps"]
    assert steps["budgets"][-1] == 117
    assert sum(counts[-1] for sides in steps["counts"] for counts in sides) == 24 + 18
    assert [sides[0] for sides in steps["least"]] == [10, 11, 13]


def test_a_stratum_that_is_empty_has_no_least() -> None:
    layout = made(range(1, 25), schedules=(((), False), ((), True), ((), False)))
    assert layout.to_dict(most=0)["steps"]["least"][0] == [1, None]


def test_a_browser_reads_bytes_beyond_32_bits(look: Any, troubled: Path, tmp_path: Path) -> None:
    here = layout_of(troubled)
    assert isinstance(here, Layout)
    sizes = 10**11 + 4 * np.random.default_rng(1).integers(0, 2**44, here.bytes.shape)
    path = tmp_path / "report.html"
    path.write_text(pages.html(Findings.read(troubled), troubled, replace(here, bytes=sizes, beside=())))
    page = look(path).page
    page.wait_for_selector("#strata")
    for budget in np.sort(sizes.ravel())[[3, sizes.size // 2]]:
        page.fill("#budget-text", f"{budget}B")
        count = (sizes <= budget).sum()
        page.wait_for_selector(f"#fits-body[data-fitting='{count}']", state="attached")


def test_a_browser_counts_several_grids_as_one(look: Any, troubled: Path, tmp_path: Path) -> None:
    here = layout_of(troubled)
    assert isinstance(here, Layout)
    more = Part(here.bytes[:, :, 1:] + 5_000, here.masks[1:], here.schedules, "+mesa(bits=8)")
    path = tmp_path / "report.html"
    path.write_text(pages.html(Findings.read(troubled), troubled, replace(here, more=(more,), beside=())))
    page = look(path).page
    page.wait_for_selector("#strata")
    every = np.concatenate([here.bytes.ravel(), more.bytes.ravel()])
    for budget in np.sort(every)[[0, every.size // 2, every.size - 1]]:
        page.fill("#budget-text", f"{budget}B")
        count = (every <= budget).sum()
        page.wait_for_selector(f"#fits-body[data-fitting='{count}']", state="attached")
    assert page.locator(".near code").first.inner_text().endswith("+mesa(bits=8)")
