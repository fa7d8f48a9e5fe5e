"""Every command of the README and of the method cards is run, and its tree is the real one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bsr_explorer import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.removeprefix("$ ").strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [part for line in LINES for part in line.split(" && ") if part and not part.startswith("#")]

SMALL = "--trials 1 --proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random"
"""Makes a search of any model a matter of seconds. What it says at full length is in the README."""

SMALL_COMPARISON = (
    "--model deit_t --image-size 64 --data digits --seeds 1 --rounds 1 --batch-size 2 --proxy-size 32 --train-size 32 "
    "--val-size 32 --epochs 1 --weights random"
)
"""The same of a comparison, on data that is always there."""

RUN_ELSEWHERE = ("pip install", "pytest", "python benchmarks/", "bash .ci/run", "cd ", "git clone")
"""Run by ``.ci/run`` (install and tests) or too long for a test (benchmarks; they have tests of their own)."""


def test_the_two_commands_stand_there() -> None:
    assert 'pip install -e ".[demo]" && bsr-explore search --model deit_s --budget 2GB' in LINES
    assert 'pip install -e ".[test]" && pytest' in LINES


@pytest.mark.parametrize("command", [c for c in dict.fromkeys(COMMANDS) if not c.startswith(RUN_ELSEWHERE)])
def test_a_command_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_folder: Path
) -> None:
    words = shlex.split(command)
    assert words[0] == "bsr-explore", f"nobody runs {command!r}"
    words = [str(study_folder) if word.startswith("reports/") else word for word in words]
    words = [str(ROOT / word) if word.startswith("studies/") else word for word in words]
    if words[1] == "search" and "--dry-run" not in words:
        words += [*shlex.split(SMALL), "--out", str(tmp_path / "study")]
    if words[1] == "compare":
        small = [] if "--costs-only" in words else shlex.split(SMALL_COMPARISON)
        words += [*small, "--out", str(tmp_path / "comparison")]
    if words[1] == "train":  # a study's configuration in full takes its time
        words += ["--as-searched"]
    monkeypatch.chdir(tmp_path)
    if "best.toml" in words and words[1] != "export":  # what the command before it writes
        run([*shlex.split("bsr-explore export --trial 5 --out best.toml"), str(study_folder)], monkeypatch)
    run(words, monkeypatch)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it must end well."""
    monkeypatch.setattr("sys.argv", words)
    try:
        cli.main()
    except SystemExit as end:
        assert end.code in (None, 0)


def test_benchmarks_named_there_exist() -> None:
    for name in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / name).is_file()


def test_every_file_has_its_line_in_the_tree() -> None:
    tree = README.split("## The tree")[1].split("\n## ")[0]
    for path in sorted((ROOT / "bsr_explorer").rglob("*.py")):
        if path.name != "__init__.py":
            assert re.search(rf"\b{re.escape(path.name)}\b", tree), (
                f"{path.name} is missing in the README's tree"
            )


def test_pictures_named_there_exist() -> None:
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
