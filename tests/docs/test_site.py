"""The site, built as ``.ci/run`` builds it: without a warning, complete, and readable without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bsr_explorer
from tests.docs.pages import PAGES, ROOT

pytestmark = pytest.mark.thorough  # .ci/run builds it anyway, and says why it cannot


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(made)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return made


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        if page.startswith("docs/"):
            assert (site / page.removeprefix("docs/")).with_suffix(".html").is_file(), page


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Text may link to other sites; scripts, styles, fonts and pictures come from this one."""
    loads = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+", re.IGNORECASE
    )
    for page in site.rglob("*.html"):
        assert not [found for found in loads.findall(page.read_text()) if 'rel="canonical"' not in found], (
            page
        )


def test_the_reference_has_the_whole_public_interface(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text()
    for name in set(bsr_explorer.__all__) - {"__version__"}:
        assert f'id="bsr_explorer.{name}"' in page, name


def test_the_architecture_is_drawn(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert page.count('<g class="room') > 20
    assert "<!-- " not in re.sub(r"<!--\[if.*?-->", "", page, flags=re.DOTALL).split("<article")[1]
