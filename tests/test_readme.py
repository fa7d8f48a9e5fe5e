"""The README: short, with the two commands, and nothing that it names is missing. Its commands: tests/docs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.docs.pages import blocks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_stand_there() -> None:
    first, second = [block.commands for block in blocks() if block.page == "README.md"][:2]
    assert first == ('pip install -e ".[demo]"', "bsr-explore search --model deit_s --budget 2GB")
    assert second == ('pip install -e ".[test]"', "pytest")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 125


def test_what_it_links_to_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_git_ignores_what_commands_write_and_keeps_the_examples() -> None:
    def ignored(path: str) -> bool:
        return not subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode

    written = (
        "reports/deit_s-digits-2GB/report.md",
        "runs/any/card.md",
        "compare-x/table.md",
        "site/index.html",
    )
    assert all(map(ignored, written))
    assert not ignored("reports/examples/another/report.md")
