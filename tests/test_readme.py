"""Every command of the README and of the method cards is run, and its tree is the real one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer import cli
from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.store.records import read_records
from bsr_explorer.trained import weights as trained

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = [
    [
        part
        for line in block.splitlines()
        for part in line.removeprefix("$ ").strip().split(" && ")
        if part and not part.startswith("#")
    ]
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, flags=re.DOTALL)
]
"""The commands of each block: what one of them leaves behind, the next ones may take up."""

SMALL = "--trials 1 --proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random"
"""Makes a search of any model a matter of seconds. What it says at full length is in the README."""

SMALL_COMPARISON = (
    "--model deit_t --image-size 64 --data digits --seeds 1 --rounds 1 --batch-size 2 --proxy-size 32 --train-size 32 "
    "--val-size 32 --epochs 1 --weights random"
)
"""The same of a comparison, on data that is always there."""

RUN_ELSEWHERE = ("pip install", "pytest", "python benchmarks/", "bash .ci/run", "cd ", "git clone")
"""Run by ``.ci/run`` (install and tests) or too long for a test (benchmarks; they have tests of their own)."""

Clone = Path


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A clone of the repository as it stands: what git keeps and nothing else. Commands are run in it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone of the repository")
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    made = tmp_path / "clone"
    for name in filter(None, kept.stdout.split("\0")):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made / name)
    monkeypatch.chdir(made)
    return made


def test_the_two_commands_stand_there() -> None:
    assert BLOCKS[0] == ['pip install -e ".[demo]"', "bsr-explore search --model deit_s --budget 2GB"]
    assert BLOCKS[1] == ['pip install -e ".[test]"', "pytest"]


TAKES_LONG = {"train", "fashion_mnist"}
"""Words of commands that train for long even where they are made small."""

RUN_HERE = dict.fromkeys(
    tuple(command for command in block if not command.startswith(RUN_ELSEWHERE)) for block in BLOCKS
)


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(
            commands, marks=pytest.mark.thorough if TAKES_LONG & set(shlex.split(commands[0])) else ()
        )
        for commands in RUN_HERE
        if commands
    ],
    ids=lambda commands: commands[0].removeprefix("bsr-explore "),
)
def test_a_block_of_commands_runs(
    commands: tuple[str, ...], clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "bsr-explore", f"nobody runs {command!r}"
        run(words + smaller(words), monkeypatch)


def smaller(words: list[str]) -> list[str]:
    """The flags that make a command of the README short. None of them says where it reads or writes."""
    if words[1] == "search" and "--dry-run" not in words:
        return shlex.split(SMALL)
    if words[1] == "compare" and "--costs-only" not in words:
        return shlex.split(SMALL_COMPARISON)
    if words[1] == "train":  # a study's configuration in full takes its time
        return ["--as-searched"]
    return []


def test_the_first_command_trains(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    words, folder = shlex.split(BLOCKS[0][1]), clone / "reports" / "deit_s-digits-2GB"
    assert not folder.exists()
    started = datetime.now(UTC).replace(microsecond=0)  # records tell whole seconds
    run(words + smaller(words), monkeypatch)
    records = list(read_records(folder).values())
    assert records
    assert all(record.status == "finished" for record in records)
    assert all(datetime.fromisoformat(record.provenance["time"]) >= started for record in records)


def test_git_ignores_what_commands_write_and_keeps_the_examples() -> None:
    def ignored(path: str) -> bool:
        return not subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode

    assert all(
        map(ignored, ("reports/deit_s-digits-2GB/report.md", "runs/any/card.md", "compare-x/table.md"))
    )
    assert not ignored("reports/examples/another/report.md")


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it must end well."""
    monkeypatch.setattr("sys.argv", words)
    try:
        cli.main()
    except SystemExit as end:
        assert end.code in (None, 0)


SMALLER = {
    'model="deit_s", batch_size=32': 'model="deit_t", image_size=64, batch_size=2',
    "pretrained=True": "pretrained=False",
    "train_size=320, epochs=3": "train_size=32, val_size=32, epochs=1",
    "image_size=112": "image_size=48",
    'data="digits"': 'data="digits", weights="random"',
}
"""What makes its Python example a matter of seconds."""


def test_the_example_in_python_runs_and_prediction_and_measurement_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(import bsr_explorer.*?)```", README, flags=re.DOTALL)
    for said, instead in SMALLER.items():
        assert code.count(said) == 1
        code = code.replace(said, instead)
    (folder,) = re.findall(r'bx\.load\("(.*?)"\)', code)
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    config = Config("deit_t", 48, 10, method="bsr")
    about = trained.About(config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", tuple("0123456789"))
    trained.save(Path(folder) / trained.FILE, build(config), about)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (names["predicted"] - names["measured"]).rows == ()
    assert "(predicted - measured).rows" in code
    assert names["record"].status == "finished"
    assert names["model"](torch.zeros(1, 3, 48, 48)).shape == (1, 10)


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
