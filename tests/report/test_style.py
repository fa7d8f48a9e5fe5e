"""The look of the figures: who has which colour, and that files do not change when nothing did."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from bsr_explorer.methods import METHODS
from bsr_explorer.report import style


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("bsr(blocks=(3,), keep={}, fuse=False)", "bsr"),
        ("last(k=3)", "last"),
        ("linear", "linear"),
        ("lastly(k=3)", "other"),
        ("bsr(blocks=(1,))+mesa()", "bsr"),
        ("", "other"),
    ],
)
def test_a_method_is_of_the_family_that_its_name_says(method: str, family: str) -> None:
    assert style.family(method) == family


def test_every_method_has_a_look_of_its_own() -> None:
    assert set(METHODS) <= set(style.FAMILY)
    looks = [*style.FAMILY.values(), style.OTHER]
    assert len({colour for colour, _ in looks}) == len(looks)
    assert len({marker for _, marker in looks}) == len(looks)
    assert len({colour for colour, _ in style.KIND.values()}) == len(style.KIND)


def test_a_figure_is_closed_and_leaves_the_settings_alone() -> None:
    before, count = dict(mpl.rcParams), len(plt.get_fignums())
    with style.figure(2, 1) as (fig, _):
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert tuple(fig.get_size_inches()) == (2, 1)
    with pytest.raises(RuntimeError, match="on purpose"), style.figure(2, 1):
        raise RuntimeError("on purpose")
    assert dict(mpl.rcParams) == before
    assert len(plt.get_fignums()) == count


def test_files_are_the_same_when_nothing_changed(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        with style.figure(2, 1) as (fig, axes):
            axes.plot([0, 1], label="Ångström × 2")
            axes.legend()
            made.append([path.read_bytes() for path in style.save(fig, tmp_path / name, "figure")])
    assert [path.name for path in sorted((tmp_path / "one").iterdir())] == ["figure.pdf", "figure.png"]
    assert made[0] == made[1]
    assert made[0][0].startswith(b"\x89PNG")
    assert made[0][1].startswith(b"%PDF")


def test_pdf_has_fonts_that_journals_take(tmp_path: Path) -> None:
    with style.figure(2, 1) as (fig, axes):
        axes.set_title("text")
        _, pdf = style.save(fig, tmp_path, "figure")
    assert b"/Type3" not in pdf.read_bytes()
    assert b"/CIDFontType2" in pdf.read_bytes()
