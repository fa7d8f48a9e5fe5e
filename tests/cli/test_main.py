"""The command line as a whole: help, version, Ctrl-C, and how fast it can answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from bsr_explorer.cli import STOPPED
from bsr_explorer.store.records import read_records
from bsr_explorer.version import __version__

EXAMPLE = str(Path(__file__).parents[2] / "reports" / "examples" / "deit_s-digits-2GB")

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


def test_the_version_is_printed(cli: Cli) -> None:
    done = cli("--version")
    assert (done.code, done.out) == (0, f"bsr-explore {__version__}\n")


def test_nothing_asked_is_answered_with_help(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.err) == (0, "")
    assert "Usage" in done.out


# --- Ctrl-C ----------------------------------------------------------------------------------------------


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


PARENT = """import contextlib, io, json, os, sys
from bsr_explorer import cli
from bsr_explorer.cli import app
app._register([])
app.app.registered_commands.clear()
import typer.main  # and what it imports when it answers
slow = {slow!r}
print(json.dumps([name for name in slow if name in sys.modules]), flush=True)
for line in sys.stdin:
    words, absent, before, folder = json.loads(line)
    reader, writer = os.pipe()
    if not os.fork():
        os.chdir(folder)
        sys.argv = ["bsr-explore", *words]
        sys.modules.update(dict.fromkeys(absent))
        exec(before)
        out, err, code = io.StringIO(), io.StringIO(), 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        imported = [name for name in slow if name in sys.modules and name not in absent]
        with open(writer, "w") as file:
            json.dump([code, imported, out.getvalue(), err.getvalue()], file)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        print(file.read(), flush=True)
    os.wait()
"""
"""A process that has imported the commands, and none of what is slow: each command that it reads, a child of it runs,
which ends as the command does."""


@pytest.fixture(scope="module")
def parent() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PARENT.replace("{slow!r}", repr(SLOW_TO_IMPORT))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == []  # to import the commands needs nothing slow
        yield process
        process.stdin.close()


class Apart(Protocol):
    """Runs a command in a process of its own."""

    def __call__(
        self, *arguments: str | Path, absent: str = "", before: str = ""
    ) -> tuple[int, set[str], str, str]: ...


@pytest.fixture
def run_apart(parent: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apart:
    """A command in a process of its own, in an empty folder: how it ended, which slow packages it imported, and what it
    said. ``absent``: a package to take for one that is not installed; ``before``: Python to run
    before it."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, absent: str = "", before: str = "") -> tuple[int, set[str], str, str]:
        assert parent.stdin is not None and parent.stdout is not None
        print(
            json.dumps([[*map(str, arguments)], absent.split(), before, str(tmp_path)]),
            file=parent.stdin,
            flush=True,
        )
        code, imported, said, error = json.loads(parent.stdout.readline())
        return code, set(imported), said, error

    return run


@pytest.fixture
def imported_by(run_apart: Apart) -> Callable[..., set[str]]:
    """The slow ones of the packages that a command imports, which ends well."""

    def run(*arguments: str | Path, before: str = "") -> set[str]:
        code, imported, _, error = run_apart(*arguments, before=before)
        assert code == 0, error
        return imported

    return run


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["search", "--help"], ["compare", "--help"], ["profile", "--help"]),
        *(["list", kind] for kind in ("models", "methods", "datasets")),
        *([command, "--help"] for command in ("max-batch", "train", "reproduce", "export", "retry")),
    ],
    ids=" ".join,
)
def test_asking_what_there_is_needs_no_torch(
    arguments: list[str], imported_by: Callable[..., set[str]]
) -> None:
    assert imported_by(*arguments) == set()


REFUSED = [
    *(
        (
            command,
            "--model",
            "deit_x",
            "--model: unknown model 'deit_x' (nearest: deit_t, deit_s, deit_b); choose",
        )
        for command in ("profile", "max-batch", "search", "compare")
    ),
    (
        "search",
        "--model",
        "vit_smal_patch16_224",
        "--model: unknown model 'vit_smal_patch16_224' (nearest: vit_small_p",
    ),
    (
        "search",
        "--model",
        "deit_small_patch16_224.best",
        "--model: deit_small_patch16_224 has no pretrained tag",
    ),
    ("search", "--proxy-size", "33", "--proxy-size: 33 is not a positive multiple"),
    ("search", "--image-size", "225", "--image-size: 225 is not a positive multiple"),
    ("search", "--budget", "1MB", "--budget: 1MB is less than the smallest configuration needs"),
    ("search", "--recipe", "long", "--recipe: unknown value"),
    ("search", "--sampler", "any", "--sampler: unknown value"),
    ("search", "--jobs", "-1", "--jobs: -1 must be"),
    ("search", "--device", "tpu", "--device: unknown device"),
    ("search", "--weights", "none.pth", "--weights: there is no file"),
    ("search", "--data", "nothing", "--data: 'nothing' is neither"),
    ("compare", "--proxy-size", "33", "--proxy-size: 33 is not a positive multiple"),
    ("compare", "--methods", "nothing", "--methods: unknown value"),
    ("compare", "--methods", "bsr(blocks=(99,))", "--methods: bsr(blocks=…): block 99 is out of range"),
    ("compare", "--seeds", "0", "--seeds: 0 must be"),
    ("profile", "--method", "nothing", "--method: unknown value"),
    ("max-batch", "--budget", "2", "--budget: '2' has no unit"),
    ("train", EXAMPLE, "--recipe", "long", "--recipe: unknown value"),
    ("train", EXAMPLE, "--proxy-size", "33", "--proxy-size: 33 is not a positive multiple"),
    ("train", EXAMPLE, "--weights", "none.pth", "--weights: there is no file"),
    ("reproduce", EXAMPLE, "99", "TRIAL: 99 has no record"),
    ("reproduce", EXAMPLE, "0", "--tolerance", "2", "--tolerance: 2.0 must be"),
    ("retry", EXAMPLE, "--failed", "--jobs", "-1", "--jobs: -1 must be"),
    ("report", "nowhere", "STUDY: nowhere is not the folder of a study"),
    ("compare-studies", EXAMPLE, "nowhere", "STUDY: nowhere is not the folder of a study"),
]
"""Commands, and what they are refused with."""


@pytest.mark.thorough
@pytest.mark.parametrize("asked", REFUSED, ids=lambda asked: " ".join(asked[:-1]).replace(EXAMPLE, "STUDY"))
def test_what_needs_no_model_is_refused_without_torch(
    asked: tuple[str, ...], run_apart: Apart, tmp_path: Path
) -> None:
    code, imported, said, error = run_apart(*asked[:-1])
    assert (code, imported, said) == (2, set(), "")
    assert error.startswith(f"error: {asked[-1]}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "asked", "words"),
    [
        (
            "ray",
            ("search", "--cluster", "local"),
            '--cluster: needs ray; install it with pip install "bsr-exp',
        ),
        ("ray", ("retry", EXAMPLE, "0", "--cluster", "local"), "--cluster: needs ray"),
        (
            "bitsandbytes",
            ("search", "--optimizer", "adamw_8bit"),
            "--optimizer: adamw_8bit needs bitsandbytes; in",
        ),
        (
            "bitsandbytes",
            ("compare", "--optimizer", "adamw_8bit"),
            "--optimizer: adamw_8bit needs bitsandbytes",
        ),
        (
            "bitsandbytes",
            ("profile", "--optimizer", "adamw_8bit", "--measure"),
            "--optimizer: adamw_8bit needs bitsandbytes",
        ),
        ("onnxscript", ("train", EXAMPLE, "--export", "onnx"), "--export onnx: needs onnxscript"),
    ],
    ids=lambda value: " ".join(value).replace(EXAMPLE, "STUDY") if isinstance(value, tuple) else None,
)
def test_a_missing_package_is_found_without_torch(
    package: str, asked: tuple[str, ...], words: str, run_apart: Apart
) -> None:
    code, imported, _, error = run_apart(*asked, absent=package)
    assert (code, imported) == (2, set())
    assert error.startswith(f"error: {words}")


@pytest.mark.thorough
def test_costs_of_an_optimiser_need_no_package_of_it(run_apart: Apart) -> None:
    assert run_apart("profile", "--optimizer", "adamw_8bit", absent="bitsandbytes")[:2] == (0, set())
    costs = ("compare", "--optimizer", "adamw_8bit", "--costs-only", "--dry-run", "--methods", "full")
    assert run_apart(*costs, absent="bitsandbytes")[0] == 0


@pytest.mark.thorough
def test_a_finished_search_says_so_without_torch(run_apart: Apart, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "study"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    search = ("search", "--model", "deit_s", "--budget", "2GB", "--out", str(folder))
    code, imported, said, _ = run_apart(*search)
    assert (code, imported) == (0, {"optuna"})  # which knows the trials
    records = list(read_records(folder).values())
    seeds = sum(record.study["replica"] > 0 for record in records)
    assert said.splitlines()[0].startswith(
        f"deit_s-digits-2GB is finished: {len(records) - seeds} trials and {seeds} runs on fresh seeds, the last at "
    )
    assert f"by commit {records[0].provenance['commit']}" in said.splitlines()[0]
    assert records[0].provenance["processor"] in said.splitlines()[0]
    assert f"--fresh, which moves {folder} to {folder}.1" in said
    code, imported, answer, _ = run_apart(*search, "--json")
    assert (code, imported) == (0, {"optuna"})
    assert json.loads(answer)["finished_before"]["trials"] == len(records) - seeds
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


ONE_FORMAT = "from bsr_explorer.report import style; style.UNDATED = {'png': style.UNDATED['png']}"
"""Three formats of a figure take thrice as long."""


@pytest.mark.thorough
def test_a_report_of_a_known_model_needs_no_torch(
    imported_by: Callable[..., set[str]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "study"))
    (folder / "report.md").unlink()
    assert imported_by("report", folder, before=ONE_FORMAT) <= {
        "optuna"
    }  # which lays out what else could have been chosen
    assert (folder / "report.md").exists()


@pytest.mark.thorough
def test_a_report_of_a_model_that_is_not_known_here_leaves_out_what_follows_from_it(
    imported_by: Callable[..., set[str]], study_folder: Path
) -> None:
    imported_by("report", study_folder, before=ONE_FORMAT)
    page = (study_folder / "report.md").read_text()
    assert "What follows from the model alone is not drawn: --model: unknown model 'toy'" in page
    assert {path.stem for path in (study_folder / "figures").iterdir()} == {
        *("front", "memory_by_block", "saving", "hypervolume", "calibration")
    }


@pytest.mark.parametrize(
    "arguments",
    [("show", "0"), ("select",), ("select", "knee"), ("export",), ("export", "--select", "trial 0")],
)
def test_looking_at_a_study_needs_no_torch(
    arguments: tuple[str, ...], imported_by: Callable[..., set[str]], study_folder: Path
) -> None:
    assert imported_by(arguments[0], study_folder, *arguments[1:]) == set()


def test_the_status_of_a_study_needs_no_torch(
    imported_by: Callable[..., set[str]], study_folder: Path
) -> None:
    assert imported_by("status", study_folder) <= {"optuna"}  # which reads the database


def test_the_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bsr_explorer", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"bsr-explore {__version__}\n"
