"""The pages of ``docs/extend``, followed word for word in an empty folder.

Each block of a page is taken as it stands: one with a title is written into the file of this name, commands are run,
and what a page shows below a command is its output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Fence, fences, shown

pytestmark = pytest.mark.thorough  # each command of a page is a process of its own

FOLLOWED = [
    page for page in PAGES if page.startswith("docs/extend/") and any(f.title for f in fences(PAGES[page]))
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A virtual environment with all that this one has. In it ``pip install`` needs no network, for it takes
    setuptools and everything that a page's package depends on from here."""
    made = tmp_path_factory.mktemp("environment")
    venv.create(made, with_pip=False)
    python = made / "bin" / "python"
    (packages,) = made.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    for name, module in (("pip", "pip"), ("bsr-explore", "bsr_explorer.cli")):
        script = made / "bin" / name
        script.write_text(
            f"#!{python}\nimport sys\nfrom {module} import main\n"
            "if __name__ == '__main__':  # processes of trials import it, too\n    sys.exit(main())\n"
        )
        script.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "130",
        "PIP_NO_BUILD_ISOLATION": "0",  # which is pip's way to say that there is none
        "PIP_NO_DEPS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.mark.long
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_is_followed_word_for_word(page: str, tmp_path: Path, environment: dict[str, str]) -> None:
    for fence, output in _steps(page):
        if fence.title is not None:
            file = tmp_path / fence.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(fence.text)
        elif fence.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", fence.text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{fence.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            for line in shown(output):
                assert line in " ".join(done.stdout.split()), f"{fence.text}\n{done.stdout}"
        else:
            assert fence.language == "text", f"{page}: who reads this block?\n{fence.text}"


def test_pages_are_followed() -> None:
    assert "docs/extend/method.md" in FOLLOWED
    assert sys.prefix  # the environment above is made from this one


def _steps(page: str) -> Iterator[tuple[Fence, str | None]]:
    """The blocks of a page in order, with the output that is shown below a command."""
    found = fences(PAGES[page])
    for place, fence in enumerate(found):
        yield fence, found[place + 1].text if fence.shows_output else None
