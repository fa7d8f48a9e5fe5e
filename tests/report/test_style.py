"""The look of the figures: who has which colour, and that files do not change when nothing did."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from bsr_explorer.errors import UserError
from bsr_explorer.methods import METHODS
from bsr_explorer.report import style


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("bsr(blocks=(3,), keep={}, fuse=False)", "bsr"),
        ("last(k=3)", "last"),
        ("linear", "linear"),
        ("lastly(k=3)", "lastly"),
        ("bsr(blocks=(1, 2), keep={3: 0.5})+mesa()", "bsr+mesa"),
        ("bsr + offload()", "bsr+offload"),
    ],
)
def test_a_method_is_of_the_family_that_its_name_says(method: str, family: str) -> None:
    assert style.family(method) == family


def test_every_method_has_a_look_of_its_own() -> None:
    looks = {name: style.look(name) for name in METHODS}
    assert len(set(looks.values())) == len(looks)
    colours = [colour for colour, _ in style.FAMILY.values()]
    assert len(set(colours)) == len(colours)
    assert len({marker for _, marker in style.FAMILY.values()}) == len(colours)
    assert len({colour for colour, _ in style.KIND.values()}) == len(style.KIND)


def test_an_expression_looks_like_its_method() -> None:
    assert style.look("last(k=3)") == style.look("last") == style.FAMILY["last"]


def test_a_composition_has_the_colour_of_the_first_and_the_marker_of_the_last() -> None:
    assert style.look("bsr(blocks=(1,))+checkpoint()+mesa(bits=8)") == (style.BLUE, "h")


def test_a_method_without_a_line_of_its_own_has_a_look_too() -> None:
    assert style.look("novel(k=3)") == style.look("novel") in style.SPARE
    assert not {marker for _, marker in style.SPARE} & {marker for _, marker in style.FAMILY.values()}


def test_families_are_ordered_as_methods_are() -> None:
    mixed = ["novel", "full", "bsr+mesa", "linear", "bsr"]
    assert sorted(mixed, key=style.order) == ["bsr", "bsr+mesa", "linear", "full", "novel"]


@pytest.mark.parametrize("venue", style.VENUES)
def test_figures_are_as_wide_as_a_venues_page(venue: str) -> None:
    page = style.page_of(venue)
    assert page.full is not None and page.half is not None
    assert 3 <= page.half <= page.full <= 7
    with style.made_for(page):
        for asked, width in ((3.4, page.half), (5.8, page.full)):
            with style.figure(asked, 2) as (fig, _):
                assert tuple(fig.get_size_inches()) == (pytest.approx(width), 2)
                assert mpl.rcParams["font.size"] == page.fonts["font.size"]
                assert mpl.rcParams["pdf.fonttype"] == 42
    with style.figure(3.4, 2) as (fig, _):
        assert fig.get_size_inches()[0] == 3.4


def test_an_unknown_venue_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"--venue: .*'icmm'.*icml"):
        style.page_of("icmm")


def test_a_figure_is_closed_and_leaves_the_settings_alone() -> None:
    before, count = dict(mpl.rcParams), len(plt.get_fignums())
    with style.figure(2, 1) as (fig, _):
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert tuple(fig.get_size_inches()) == (2, 1)
    with pytest.raises(RuntimeError, match="on purpose"), style.figure(2, 1):
        raise RuntimeError("on purpose")
    assert dict(mpl.rcParams) == before
    assert len(plt.get_fignums()) == count


@pytest.mark.usefixtures("all_formats")
def test_files_are_the_same_when_nothing_changed(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        with style.figure(2, 1) as (fig, axes):
            axes.plot([0, 1], label="Ångström × 2")
            axes.legend()
            made.append([path.read_bytes() for path in style.save(fig, tmp_path / name, "figure")])
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert names == ["figure.pdf", "figure.png", "figure.svg"]
    assert made[0] == made[1]
    assert made[0][0].startswith(b"\x89PNG")
    assert made[0][1].startswith(b"%PDF")
    assert b"<svg" in made[0][2]


@pytest.mark.usefixtures("all_formats")
def test_pdf_has_fonts_that_journals_take(tmp_path: Path) -> None:
    with style.figure(2, 1) as (fig, axes):
        axes.set_title("text")
        _, pdf, _ = style.save(fig, tmp_path, "figure")
    assert b"/Type3" not in pdf.read_bytes()
    assert b"/CIDFontType2" in pdf.read_bytes()
