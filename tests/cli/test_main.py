"""The command line as a whole: help, version, exit codes, and how fast it can answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli import STOPPED
from bsr_explorer.cli import app as module
from bsr_explorer.errors import UserError
from bsr_explorer.version import __version__

REPORTS = Path(__file__).parents[2] / "reports" / "examples"

Cli = Callable[..., Any]

COMMANDS = (
    *("profile", "max-batch", "search", "compare", "report", "show", "select", "export", "train"),
    *("reproduce", "status", "retry", "list"),
)


# --- help and version -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(cli: Cli, flag: str) -> None:
    done = cli(flag)
    assert (done.code, done.err) == (0, "")
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example" in done.out
    assert f"bsr-explore {command} " in done.out.split("Example")[1]


def test_help_shows_an_example(cli: Cli) -> None:
    assert "Example" in cli("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(cli: Cli, command: str) -> None:
    import typer

    module._register()
    group = typer.main.get_command(module.app)
    for option in group.commands[command].params:  # type: ignore[attr-defined]
        assert getattr(option, "help", None), f"{command}: {option.name}"


def test_the_version_is_printed(cli: Cli) -> None:
    done = cli("--version")
    assert (done.code, done.out) == (0, f"bsr-explore {__version__}\n")


def test_nothing_asked_is_answered_with_help(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.err) == (0, "")
    assert "Usage" in done.out


# --- exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["list"], "what"),
        (["search", "--no-such-flag"], "--no-such-flag"),
        (["search", "--trials", "abc"], "--trials"),
        (["search", "--batch-size", "1.5"], "--batch-size"),
        (["max-batch", "--micro-batches", "1.5"], "--micro-batches"),
        (["report"], "STUDY"),
        (["show", "reports"], "TRIAL"),
        (["train"], "CONFIG.toml"),
    ],
)
def test_a_usage_error_is_one_line_and_2(cli: Cli, arguments: list[str], word: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert word in done.err


def test_a_user_error_is_one_line_and_2(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.cli import listing

    def wrong() -> None:
        raise UserError("list: a value\n  that is wrong")

    monkeypatch.setattr(listing, "_models", wrong)
    done = cli("list", "models")
    assert (done.code, done.out, done.err) == (2, "", "error: list: a value that is wrong\n")


def stop() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.cli import listing

    monkeypatch.setattr(listing, "_models", stop)
    done = cli("list", "models")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_ctrl_c_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.cli import listing

    monkeypatch.setattr(listing, "_models", stop)
    assert cli("list", "models").err == f"{STOPPED}\n"


# --- what is imported -----------------------------------------------------------------------------------

SLOW_TO_IMPORT = ("torch", "timm", "optuna", "torchvision", "sklearn")


def imported_by(*arguments: str | Path) -> set[str]:
    """The slow ones of the packages that a command imports."""
    code = (
        "import sys\n"
        "from bsr_explorer.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print('imported', *({set(SLOW_TO_IMPORT)!r} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["search", "--help"], ["compare", "--help"], ["profile", "--help"]),
        *(["list", kind] for kind in ("models", "methods", "datasets")),
        *([command, "--help"] for command in ("max-batch", "train", "reproduce", "export", "retry")),
    ],
    ids=" ".join,
)
def test_asking_what_there_is_needs_no_torch(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


def test_a_report_of_a_known_model_needs_no_torch(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REPORTS / "deit_s-digits-2GB", tmp_path / "study"))
    (folder / "report.md").unlink()
    assert imported_by("report", folder) <= {"optuna"}  # which lays out what else could have been chosen
    assert (folder / "report.md").exists()


def test_a_report_of_a_model_that_is_not_known_here_leaves_out_what_follows_from_it(
    study_folder: Path,
) -> None:
    imported_by("report", study_folder)
    page = (study_folder / "report.md").read_text()
    assert "What follows from the model alone is not drawn: --model: unknown model 'toy'" in page
    assert {path.stem for path in (study_folder / "figures").iterdir()} == {
        *("front", "memory_by_block", "saving", "hypervolume", "calibration")
    }


@pytest.mark.parametrize(
    "arguments", [("show", "0"), ("select",), ("select", "--knee"), ("export",), ("export", "--trial", "0")]
)
def test_looking_at_a_study_needs_no_torch(arguments: tuple[str, ...], study_folder: Path) -> None:
    assert imported_by(arguments[0], study_folder, *arguments[1:]) == set()


def test_the_status_of_a_study_needs_no_torch(study_folder: Path) -> None:
    assert imported_by("status", study_folder) <= {"optuna"}  # which reads the database


def test_the_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bsr_explorer", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"bsr-explore {__version__}\n"
