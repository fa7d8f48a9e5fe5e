"""Every command of README, site and ``--help`` is run, or where that takes long, parsed by the real parser.

How a command is tried follows from what it does:

- what only predicts or reads is run as it stands, and the output that a page shows below it is compared;
- what trains is run with the flags of ``SMALL`` beside its own;
- ``PARSED`` is not run here: its real words go through the real parser of the command.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from bsr_explorer import cli
from bsr_explorer.cli import app
from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.report import style
from bsr_explorer.search import plan
from bsr_explorer.store.records import read_records
from bsr_explorer.trained import weights
from tests.docs.pages import ROOT, Block, blocks, inline, python, shown

pytestmark = pytest.mark.thorough  # each command of a page is run

FIRST = "bsr-explore search --model deit_s --budget 2GB"
"""The README's first command. It has a test of its own."""

SMALL = {
    "search": "--trials 1 --replicas 0 --proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random",
    "compare": (
        "--model deit_t --image-size 64 --data digits --seeds 1 --rounds 1 --batch-size 2 --proxy-size 32 "
        "--train-size 32 --val-size 32 --epochs 1 --weights random"
    ),
    "tokens": "--data digits --weights random --images 2",
    "train": "--proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random",
}
"""The flags that make a command short. None of them says where it reads or writes."""

SHORT = {"--dry-run", "--costs-only"}
"""Words of commands that need no further flags to be short."""

PARSED = {
    "trace": "records a step on a GPU, or reads the record: tests/cli/test_trace.py",
    "--jobs": "trials in processes of their own: tests/search has them",
    "--cluster": "a Ray cluster: tests/search has one, in -m thorough",
}
"""Words of commands that are parsed only, and why."""

ELSEWHERE = ("pip install", "pytest", "bash .ci/run", "mkdocs serve", "git clone", "cd ", "hf download")
"""Commands of other programs: ``.ci/run`` installs, tests and builds the site."""

BLOCKS = list({block.commands: block for block in blocks()}.values())


def _ours(block: Block) -> tuple[str, ...]:
    """The commands of a block that are ours and are run here."""
    return tuple(
        command
        for command in block.commands
        if command.startswith("bsr-explore ")
        and command != FIRST
        and not PARSED.keys() & set(shlex.split(command))
    )


@pytest.fixture(autouse=True)
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as PNG alone: tests/report has the other formats, which take thrice as long."""
    monkeypatch.setattr(style, "UNDATED", {"png": style.UNDATED["png"]})


CALIBRATED = cache(plan.calibrate)


@pytest.fixture(autouse=True)
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several commands plan for the same model on the same machine."""
    monkeypatch.setattr(plan, "calibrate", CALIBRATED)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if _ours(block)],
    ids=lambda block: f"{block.page}: {_ours(block)[0].removeprefix('bsr-explore ')}",
)
def test_a_block_of_commands_runs(
    block: Block, clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in _ours(block):
        words = shlex.split(command)
        capfd.readouterr()
        run(words + smaller(words), monkeypatch)
        if block.output is not None and not smaller(words):
            said = " ".join(capfd.readouterr().out.split())
            for line in shown(block.output):
                assert line in said


def smaller(words: list[str]) -> list[str]:
    """The flags that make a command short, if it needs any."""
    return [] if SHORT & set(words) else shlex.split(SMALL.get(words[1], ""))


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it must end well."""
    monkeypatch.setattr("sys.argv", words)
    try:
        cli.main()
    except SystemExit as end:
        assert end.code in (None, 0)


def test_the_first_command_trains(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, folder = shlex.split(FIRST), clone / "reports" / "deit_s-digits-2GB"
    assert not folder.exists()
    started = datetime.now(UTC).replace(microsecond=0)  # records tell whole seconds
    run(words + smaller(words), monkeypatch)
    records = list(read_records(folder).values())
    assert records
    assert all(record.status == "finished" for record in records)
    assert all(datetime.fromisoformat(record.provenance["time"]) >= started for record in records)


@pytest.fixture(scope="module")
def parsers() -> dict[str, Any]:
    app.app.registered_commands.clear()  # a command that ran here has registered itself alone
    app._register([])
    return typer.main.get_command(app.app).commands  # type: ignore[attr-defined, no-any-return]


def test_every_command_is_one_that_there_is(parsers: dict[str, Any]) -> None:
    """Its words go through the real parser: the name, every flag, and the kind of every value."""
    said = [command for block in BLOCKS for command in block.commands]
    helped = [
        line.strip()
        for parser in parsers.values()
        for line in parser.help.partition("Examples:")[2].splitlines()
        if line.strip()
    ]
    assert len(helped) >= len(parsers), "a command whose help has no example"
    named = [one for one in inline() if not one.startswith("bsr-explore ") or " -" in one]
    for command in [*said, *helped, *named]:
        if command.startswith("bsr-explore "):
            name, *words = shlex.split(command)[1:]
            if "--help" not in words:
                parsers[name].make_context(name, words)
        else:
            assert command.startswith((*ELSEWHERE, "python ")), f"nobody runs {command!r}"


class _Parsed(Exception):
    """A script has parsed its arguments."""


SCRIPTS = dict.fromkeys(
    command
    for command in (*inline(), *(command for block in BLOCKS for command in block.commands))
    if command.startswith("python ")
)


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_script_takes_its_flags(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks take minutes to hours, and have tests of their own, in which they are small."""
    _, script, *words = shlex.split(command)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        parse(self, *args, **kwargs)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr("sys.argv", [script, *words])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(_Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


SMALLER = {
    'model="deit_s", batch_size=32': 'model="deit_t", image_size=64, batch_size=2',
    "pretrained=True": "pretrained=False",
    "train_size=320, epochs=3": "train_size=32, val_size=32, epochs=1",
    "image_size=112": "image_size=48",
    'data="digits"': 'data="digits", weights="random"',
}
"""What makes the examples in Python a matter of seconds."""


@pytest.mark.parametrize(("page", "code"), python().items(), ids=python().keys())
def test_an_example_in_python_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, instead in SMALLER.items():
        code = code.replace(said, instead)
    monkeypatch.chdir(tmp_path)
    for folder in re.findall(r'bx\.load\("(.*?)"\)', code):
        Path(folder).mkdir(parents=True)
        config = Config("deit_t", 48, 10, method="bsr")
        about = weights.About(config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", tuple("0123456789"))
        weights.save(Path(folder) / weights.FILE, build(config), about)
    names: dict[str, Any] = {}
    exec(code, names)
    if "record" in names:
        assert names["record"].status == "finished"
    if "measured" in names:
        assert "(predicted - measured).rows" in code
        assert (names["predicted"] - names["measured"]).rows == ()
    assert names["model"](torch.zeros(1, 3, 48, 48)).shape == (1, 10)
