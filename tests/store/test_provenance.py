"""Where a result came from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from bsr_explorer.store import provenance as module
from bsr_explorer.store.provenance import provenance
from bsr_explorer.version import __version__

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_versions_and_machine_are_said() -> None:
    said = provenance("cuda")
    assert said["bsr_explorer"] == __version__
    assert {name: said[name] for name in ("torch", "timm", "optuna", "numpy")} == {
        name: version(name) for name in ("torch", "timm", "optuna", "numpy")
    }
    assert said["cpus"] == os.cpu_count()
    assert said["device"] == "cuda"
    assert said["python"] == sys.version.split()[0]
    assert said["processor"]
    assert json.loads(json.dumps(said)) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["/env/bin/bsr-explore", "train", "a study", "--select", "knee"],
            "bsr-explore train 'a study' --select knee",
        ),
        (["/lib/bsr_explorer/__main__.py", "search", "--json"], "python -m bsr_explorer search --json"),
        (["benchmarks/learning.py", "--out", "x"], "python benchmarks/learning.py --out x"),
    ],
)
def test_the_command_is_whole(monkeypatch: pytest.MonkeyPatch, given: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "argv", given)
    assert provenance("cpu")["command"] == said


def test_how_many_threads_add_up_is_said() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert provenance("cpu")["threads"] == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_time_is_now_in_utc() -> None:
    time = datetime.fromisoformat(provenance("cpu")["time"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/bsr-explore", "search", "--budget", "2GB"])
    assert provenance("cpu")["command"] == "bsr-explore search --budget 2GB"


def test_the_command_can_be_typed_again_with_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bsr-explore", "profile", "--method", "last(k = 3)"])
    assert provenance("cpu")["command"] == "bsr-explore profile --method 'last(k = 3)'"


def test_a_package_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package-at-all",))
    assert provenance("cpu")["no-such-package-at-all"] is None


# --- the commit -----------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that this package seems to run from."""
    source = tmp_path / "bsr_explorer" / "store" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("# here\n")
    monkeypatch.setattr(module, "__file__", str(source))
    return tmp_path


@needs_git
def test_the_commit_is_the_checkouts_and_says_if_it_was_changed(checkout: Path) -> None:
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "one")
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert provenance("cpu")["commit"] == commit
    (checkout / "new.txt").write_text("not tracked, so not part of the program")
    assert provenance("cpu")["commit"] == commit
    (checkout / "bsr_explorer" / "store" / "provenance.py").write_text("# changed\n")
    assert provenance("cpu")["commit"] == f"{commit}+dirty"


def test_an_installed_package_has_no_commit(checkout: Path) -> None:
    assert provenance("cpu")["commit"] is None


def test_a_broken_checkout_has_no_commit(checkout: Path) -> None:
    (checkout / ".git").write_text("gitdir: nowhere\n")
    assert provenance("cpu")["commit"] is None


def test_a_machine_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance("cpu")["commit"] is None
