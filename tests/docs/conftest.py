"""A clone of the repository, for commands that write into it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository as it stands: what git keeps and nothing else. Commands are run in it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone of the repository")
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    made = tmp_path / "clone"
    for name in filter(None, kept.stdout.split("\0")):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made / name)
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "130")  # as wide as the outputs on the pages
    return made
