"""``bsr-explore compare``: in full, in part, or only planned."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.errors import UserError
from bsr_explorer.finetune.run import run
from bsr_explorer.report.comparison import write as report
from bsr_explorer.store.comparison_folder import read_comparison
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.units import format_number
from tests.cli.test_search import expanded
from tests.pictures import Pictures

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

FLAGS = (
    *("compare", "--model", "toy", "--methods", "full, linear, last(k=1), bsr(blocks=(1, 3), keep={2: 0.5})"),
    *("--batch-size", "4", "--image-size", "48", "--proxy-size", "32", "--train-size", "20"),
    *("--val-size", "20", "--epochs", "1", "--weights", "random", "--device", "cpu"),
    *("--seeds", "2", "--rounds", "2"),
)
NAME = "compare-toy-digits"


@pytest.fixture
def quick(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line without the figures, which take longer to draw than some comparisons of this file."""
    monkeypatch.setattr(report, "_figures", lambda _: [])
    return cli


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("one_format")
def test_a_comparison_shows_its_table_and_names_its_files(cli: Cli) -> None:
    done = cli(*FLAGS, "--budget", "1400KB")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    said = " ".join(lines)
    assert lines[0].startswith("toy, 48 px, batch 4, adamw, fp32, fused attention, cpu; weights: random.")
    assert "20 images of digits at 32 px, a proxy: memory, FLOPs and step times are those of 48 px" in said
    assert "Budget 1400KB = 1.4 MB (1.3 MiB), counting all that is alive at the fullest moment" in said
    assert any(line.startswith("full does not fit ") for line in lines)
    found = rows(Path(NAME))
    assert [row["status"] for row in found.values()] == ["does not fit", *["finished"] * 3]
    for method in ("linear", "last(k=1)"):
        row = found[method]
        accuracy, deviation = (f"{100 * float(row[key]):.1f}" for key in ("accuracy", "accuracy_std"))
        first = lines.index(next(line for line in lines if line.startswith(method)))
        assert f"{method} {accuracy} ± {deviation}" in lines[first]
        assert f" {int(row['largest_batch']):,} " in f"{lines[first]} "
        assert format_number(float(row["step_seconds"]), 3) in lines[first]
        assert f"{float(row['peak_full_over_this']):.2f}x less" in lines[first + 1]
        assert f"{float(row['train_flops_over_full']):.2f}x" in lines[first + 1]
        assert "→" in lines[first]
    written = [path for line in lines[lines.index("Written:") + 1 :] for path in expanded(line)]
    assert {path.name for path in written} == {
        *("comparison.md", "comparison.csv", "comparison.tex"),
        *(f"{name}.{kind}" for name in ("comparison", "bars", "accountings") for kind in ("png",)),
        *("comparison.json", "step_seconds.json", "records"),
    }
    assert all(path.exists() for path in written)
    assert {(r.method, r.seed) for r in read_records(Path(NAME)).values()} == {
        (method, seed) for method in found for seed in (0, 1) if method != "full"
    }


def test_each_run_is_a_line_with_the_time_left(quick: Cli) -> None:
    done = quick(*FLAGS, "--methods", "full, linear")
    names = [line.split(":")[0] for line in done.err.splitlines() if "left]" in line]
    assert names == ["step times", "full, seed 0", "linear, seed 0", "full, seed 1", "linear, seed 1"]


def test_without_a_budget_nothing_is_said_of_one(quick: Cli) -> None:
    done = quick(*FLAGS, "--methods", "full, linear", "--seeds", "1", "--rounds", "0")
    assert done.code == 0, done.err
    assert "udget" not in done.out
    assert "largest batch" not in done.out
    assert "step_seconds.json" not in done.out


def test_a_share_of_the_steps_is_counted_and_said(quick: Cli) -> None:
    costs = ("--costs-only", "--json", "--methods", "full, full+dropbp(rate=0.75)", "--budget", "1GB")
    answers = [
        json.loads(quick(*FLAGS, *costs, "--out", f"q{place}", *more).out)
        for place, more in enumerate(((), ("--budget-quantile", "0.5")))
    ]
    (full, whole), (same, share) = (answer["methods"] for answer in answers)
    assert full["counted_bytes"] == same["counted_bytes"]
    assert whole["counted_bytes"] > share["counted_bytes"] < share["peak_bytes"]
    assert share["largest_batch"] > whole["largest_batch"]
    assert "which 50% of the steps do not exceed; what does not fit" in Path("q1/comparison.md").read_text()
    assert "do not exceed" not in Path("q0/comparison.md").read_text()
    assert json.loads(Path("q1/comparison.json").read_text())["quantile"] == 0.5


def test_json_is_all_there_is(quick: Cli) -> None:
    done = quick(*FLAGS, "--budget", "1400KB", "--count", "peak", "--out", "here", "--json")
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    answer = json.loads(done.out)
    assert (answer["folder"], answer["budget_bytes"], answer["seeds"]) == ("here", 1_400_000, 2)
    for row, cells in zip(answer["methods"], rows(Path("here")).values(), strict=True):
        assert row["method"] == cells["method"]
        assert cells["accuracy"] == ("" if row["accuracy"] is None else str(row["accuracy"]))
    assert all(Path(path).exists() for path in answer["files"])


def test_a_report_is_made_again(quick: Cli, compared_folder: Path) -> None:
    done = quick("report", compared_folder)
    assert done.code == 0, done.err
    assert "last(k=1)" in done.out
    assert (compared_folder / "comparison.md").exists()


# --- only planned ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_trains_and_writes_nothing(quick: Cli, tmp_path: Path) -> None:
    done = quick(*FLAGS, "--budget", "1400KB", "--dry-run")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert any(line.startswith("full does not fit ") for line in lines)
    assert any(line.startswith("linear not run here ") for line in lines)
    assert f"7 tasks to do (runs and timings); folder {NAME}" in lines
    assert "Nothing was trained or written (--dry-run)." in lines


@pytest.mark.thorough
@pytest.mark.usefixtures("no_training")
def test_the_authors_protocol_is_taken_and_marked(quick: Cli, tmp_path: Path) -> None:
    done = quick("compare", "--protocol", "authors", "--dry-run", "--out", tmp_path / "new")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "Protocol authors: for reproduction alone" in said
    assert "best on test" in said


def test_a_protocol_that_there_is_not_is_refused(quick: Cli) -> None:
    done = quick("compare", "--protocol", "author")
    assert done.code == 2
    assert "--protocol: unknown value 'author' (did you mean 'authors'?)" in done.err


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_in_json_says_the_same(quick: Cli, tmp_path: Path) -> None:
    done = quick(*FLAGS, "--budget", "1400KB", "--dry-run", "--json")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    answer = json.loads(done.out)
    assert (answer["tasks_left"], answer["folder"]) == (7, NAME)
    assert [row["status"] for row in answer["methods"]] == ["does not fit", *["not run here"] * 3]


def test_a_mixture_is_compared_with_drops_and_frozen_experts(quick: Cli, tmp_path: Path) -> None:
    mixture = ("--model", "moe_vit(toy, blocks=(1,), experts=4, top=2)")
    ways = (
        "full",
        "bsr(blocks=(1, 3), keep={2: 0.5}, fuse=True)",
        "linear+evit(0.5)",
        "full+freeze('experts')",
    )
    more = ("--methods", ", ".join(ways), "--seeds", "1", "--rounds", "1", "--out", tmp_path / "here")
    done = quick(*FLAGS, *mixture, *more)
    assert done.code == 0, done.err
    found = rows(tmp_path / "here")
    assert [*found] == [*ways]
    peaks = [int(row["peak_bytes"]) for row in found.values()]
    assert peaks[0] > max(peaks[1:]) and all(row["accuracy"] for row in found.values())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("how", ["--dry-run", "--costs-only"])
def test_a_card_that_is_not_here_can_be_planned_for(
    quick: Cli, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = [flag for flag in FLAGS if flag not in ("--device", "cpu")]
    answers = [
        json.loads(quick(*flags, "--gpu", card, "--budget", "190MB", how, "--json").out)
        for card in ("t4", "h100")
    ]
    assert [answer["config"]["gpu"] for answer in answers] == ["t4", "h100"]
    assert {answer["counts"] for answer in answers} == {"reserved"}
    small, large = ([row["counted_bytes"] for row in answer["methods"]] for answer in answers)
    assert all(
        mine < others for mine, others in zip(small, large, strict=True)
    )  # cuBLAS takes more on Hopper


@pytest.mark.usefixtures("no_training")
def test_a_short_comparison_is_what_is_done_if_nothing_is_said(quick: Cli) -> None:
    answer = json.loads(
        quick("compare", "--model", "deit_t", "--weights", "random", "--dry-run", "--json").out
    )
    assert answer["fidelity"] == {
        "image_size": 112,
        "train_size": 500,
        "val_size": 359,
        "epochs": 3,
        "recipe": "short",
        "views": None,
        "skip": None,
        "protocol": "held-out",
    }
    assert (answer["seeds"], answer["folder"]) == (3, "compare-deit_t-digits")
    assert [entry["label"] for entry in answer["entries"]] == [
        *("full", "linear", "last(k=3)", "bsr", "checkpoint")
    ]


# --- of a file, and costs alone -------------------------------------------------------------------------

FILE = """
[comparison]
name = "of-a-file"
methods = ["full", "last(k=1)", "mesa"]
seeds = 1
rounds = 0

[config]
model = "toy"
image_size = 48
batch_size = 4

[data]
name = DATA
weights = "random"

[fidelity]
image_size = 32
train_size = 20
val_size = 20
epochs = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A comparison's file, of some data."""

    def write(data: str = '"digits"') -> Path:
        path = tmp_path.with_name(f"{tmp_path.name}.toml")
        path.write_text(FILE.replace("DATA", data))
        return path

    return write


def test_a_file_says_everything(quick: Cli, file: Callable[..., Path]) -> None:
    done = quick("compare", file())
    assert done.code == 0, done.err
    assert [row["status"] for row in rows(Path("compare-of-a-file")).values()] == ["finished"] * 3
    again = quick("compare", file(), "--json")
    assert "seed" not in again.err
    assert json.loads(again.out)["fidelity"]["train_size"] == 20


def test_a_file_trains_on_everything_where_it_says_nothing(quick: Cli, file: Callable[..., Path]) -> None:
    path = file()
    path.write_text(path.read_text().split("[fidelity]")[0])
    answer = json.loads(quick("compare", path, "--dry-run", "--json").out)
    told = answer["fidelity"]
    assert (told["image_size"], told["train_size"], told["val_size"], told["epochs"]) == (48, 1078, 359, 3)
    assert (answer["tasks_left"], answer["folder"]) == (3, "compare-of-a-file")


def test_a_flag_beside_a_file_is_refused(quick: Cli, file: Callable[..., Path]) -> None:
    for flag in (("--model", "deit_s"), ("--seeds", "2"), ("--weights", "random"), ("--proxy-size", "32")):
        done = quick("compare", file(), *flag)
        assert done.code == 2
        assert f"{flag[0]}: cannot be given beside a file" in done.err


@pytest.mark.usefixtures("no_training")
def test_costs_alone_need_neither_data_nor_weights(
    cli: Cli, file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any, **__: Any) -> None:
        pytest.fail("costs need neither data nor weights")

    monkeypatch.setattr("bsr_explorer.cli.options.check_model_data", touched)
    monkeypatch.setattr("bsr_explorer.finetune.job.create_model", touched)
    done = cli("compare", file('"cifar100"'), "--costs-only", "--out", "here")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    found = rows(Path("here"))
    assert [row["status"] for row in found.values()] == ["not run here"] * 3
    assert any(line.startswith("last(k=1) not run here ") for line in lines)
    published = [row["published_bytes"] for row in found.values()]
    assert published[2] == "" and int(published[0]) > int(published[1])
    assert " — " in next(line for line in lines if line.startswith("mesa"))
    assert {path.name for path in Path("here/figures").iterdir()} == {
        f"{name}.{kind}" for name in ("bars", "accountings") for kind in ("png", "pdf", "svg")
    }
    assert not Path("here/records").exists()


def test_costs_first_and_then_the_whole(quick: Cli, file: Callable[..., Path]) -> None:
    assert quick("compare", file(), "--costs-only").code == 0
    done = quick("compare", file())
    assert done.code == 0, done.err
    before = contents(Path("compare-of-a-file/records"))
    assert [row["runs"] for row in rows(Path("compare-of-a-file")).values()] == ["1"] * 3
    done = quick("compare", file(), "--costs-only")
    assert (done.code, contents(Path("compare-of-a-file/records"))) == (0, before)
    assert [row["status"] for row in rows(Path("compare-of-a-file")).values()] == ["finished"] * 3


def test_costs_of_flags(quick: Cli) -> None:
    done = quick(*FLAGS, "--data", "cifar100", "--costs-only", "--out", "here")
    assert done.code == 0, done.err
    assert [row["status"] for row in rows(Path("here")).values()] == ["not run here"] * 4


def test_several_data_sets_have_a_folder_each_and_a_table_in_common(
    quick: Cli, file: Callable[..., Path]
) -> None:
    path = file('["digits", "cifar100"]')
    done = quick("compare", path, "--costs-only", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert [each["data"] for each in answer["comparisons"]] == ["digits", "cifar100"]
    tables = [f"compare-of-a-file/table.{kind}" for kind in ("md", "csv", "tex")]
    assert answer["files"] == tables
    assert set(rows(Path("compare-of-a-file/cifar100"))) == set(rows(Path("compare-of-a-file/digits")))
    done = quick("compare", path, "--costs-only")
    assert done.out.splitlines()[-2:] == [
        "Written for all data sets:",
        "  compare-of-a-file/table.{md,csv,tex}",
    ]


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_of_costs_writes_nothing(quick: Cli, file: Callable[..., Path], tmp_path: Path) -> None:
    done = quick("compare", file('["cifar10", "cifar100"]'), "--costs-only", "--dry-run", "--json")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    assert [each["tasks_left"] for each in json.loads(done.out)["comparisons"]] == [0, 0]


# --- going on -------------------------------------------------------------------------------------------


def test_the_same_command_does_nothing_twice(quick: Cli) -> None:
    first = quick(*FLAGS, "--out", "here")
    before = contents(Path("here"))
    second = quick(*FLAGS, "--out", "here")
    assert (first.code, second.code) == (0, 0)
    assert contents(Path("here")) == before
    assert second.out == first.out
    assert "seed" not in second.err


def test_what_a_folder_has_decided_need_not_be_said_again(quick: Cli, compared_folder: Path) -> None:
    open_flags = (
        "--model",
        "toy",
        "--image-size",
        "48",
        "--batch-size",
        "4",
        "--seeds",
        "2",
        "--rounds",
        "3",
    )
    done = quick("compare", *open_flags, "--methods", "full, linear, last(k=1)", "--out", compared_folder)
    assert done.code == 0, done.err
    assert "20 images of digits at 32 px" in done.out


def test_ctrl_c_says_how_to_go_on(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Record] = []

    def stopped(*arguments: Any) -> Record:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(run(*arguments))
        return trained[-1]

    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", stopped)
        done = quick(*FLAGS, "--out", "here")
    assert done.code == 130
    assert "the same command goes on" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    before = contents(Path("here/records"))
    assert len(before) == 2
    again = quick(*FLAGS, "--out", "here")
    assert again.code == 0
    after = contents(Path("here/records"))
    assert len(after) == 8
    assert before.items() <= after.items()


def arguments(folder: Path) -> list[str]:
    return [
        *("compare", "--model", "deit_t", "--methods", "full, linear", "--seeds", "2", "--rounds", "1"),
        *("--image-size", "48", "--proxy-size", "32", "--batch-size", "4", "--train-size", "40"),
        *(
            "--val-size",
            "20",
            "--epochs",
            "1",
            "--weights",
            "random",
            "--device",
            "cpu",
            "--out",
            str(folder),
        ),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_comparison_goes_on(quick: Cli, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "here"
    command = [sys.executable, "-m", "bsr_explorer", *arguments(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "records" / "0001.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), error
    before = contents(folder / "records")
    assert 2 <= len(before) < 4
    done = quick(*arguments(folder))
    assert done.code == 0, done.err
    assert before.items() <= contents(folder / "records").items()
    assert [row["runs"] for row in rows(folder).values()] == ["2", "2"]
    assert "step times" not in done.err


# --- little or nothing found ----------------------------------------------------------------------------


def test_a_comparison_in_which_everything_fails_says_why(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Record:
        raise RuntimeError("not enough\nmemory")

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", fail)
    done = quick(*FLAGS, "--out", "here")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: no run finished: ")
    assert done.err.splitlines()[-1].endswith("not enough memory; the records are in here")
    assert {record.status for record in read_records(Path("here")).values()} == {"failed"}


def test_a_run_that_failed_is_told_beside_the_others(quick: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes(config: Any, *arguments: Any) -> Record:
        if str(config.how) == "linear":
            raise RuntimeError("out of [bold]memory")
        return run(config, *arguments)

    monkeypatch.setattr("bsr_explorer.finetune.attempt.run", sometimes)
    done = quick(*FLAGS, "--out", "here", "--seeds", "1")
    assert done.code == 0
    assert "linear, seed 0: failed, RuntimeError at test_compare.py" in done.out
    assert "out of [bold]memory" in done.out
    assert any(" ".join(line.split()).startswith("linear failed ") for line in done.out.splitlines())


def test_a_name_with_brackets_is_shown(quick: Cli) -> None:
    done = quick(*FLAGS, "--out", "a[old]b", "--dry-run")
    assert done.code == 0
    assert "a[old]b" in done.out


def test_the_folder_says_what_was_compared(quick: Cli) -> None:
    assert quick(*FLAGS, "--methods", "linear", "--seeds", "1", "--rounds", "0", "--out", "here").code == 0
    made = read_comparison(Path("here"))
    assert made is not None
    assert (made.data, made.weights, made.seeds, made.budget) == ("digits", "random", 1, None)
    assert "method" not in made.config


# --- damaged images -------------------------------------------------------------------------------------


def test_damaged_images_are_named_or_left_out(quick: Cli, pictures: Pictures) -> None:
    flags = [
        *("compare", "--model", "toy", "--methods", "linear", "--batch-size", "4", "--image-size", "48"),
        *("--proxy-size", "32", "--epochs", "1", "--weights", "random", "--device", "cpu", "--seeds", "1"),
        *("--rounds", "0", "--data", str(pictures.root), "--out", "here"),
    ]
    done = quick(*flags)
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err.splitlines()[-1] for name in pictures.bad)
    assert not Path("here").exists()
    done = quick(*flags, "--skip-bad")
    assert done.code == 0, done.err
    assert "2 classes, with their training images: a 15, b 15; left out: 3 damaged" in done.err
    comparison = read_comparison(Path("here"))
    assert comparison is not None
    assert comparison.fidelity["skip"] == pictures.bad
    (record,) = read_records(Path("here")).values()
    assert (record.fidelity["skip"], record.left_out) == (list(pictures.bad), {"damaged": 3})
    for again in ([], ["--skip-bad"], ["--seeds", "2"]):
        done = quick(*flags, *again)
        assert done.code == 0, done.err
    assert len(read_records(Path("here"))) == 2


def test_a_comparison_that_trained_nothing_adopts_what_has_changed(
    quick: Cli, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.repair(remove=False)
    flags = [*FLAGS[:3], *("--methods", "linear"), *FLAGS[5:], "--data", str(pictures.root), "--out", "here"]
    for flag in ("--train-size", "--val-size"):
        place = flags.index(flag)
        del flags[place : place + 2]

    def cannot_be_read(*_: Any) -> Record:
        raise UserError("--data: cannot read b/17.png")

    with monkeypatch.context() as patch:
        patch.setattr("bsr_explorer.finetune.attempt.run", cannot_be_read)
        assert quick(*flags).code == 2
    before = read_comparison(Path("here"))
    assert before is not None
    assert before.fidelity["train_size"] == 32
    pictures.repair(remove=True)
    done = quick(*flags)
    assert done.code == 0, done.err
    after = read_comparison(Path("here"))
    assert after is not None
    assert after.fidelity["train_size"] == 30


def test_bounds_are_marked_in_the_table_and_its_files(quick: Cli, tmp_path: Path) -> None:
    flags = ("--model", "tests.models.traced.small:turned", "--image-size", "16", "--methods", "full, linear")
    more = ("--costs-only", "--budget", "5MB", "--out", tmp_path / "bounds")
    done = quick("compare", *flags, *more, "--unknown", "bound")
    assert done.code == 0, done.err
    assert "≥ " in done.out and "≤ " in done.out and "Turning (1 call" in done.out
    found = rows(tmp_path / "bounds")
    assert "peak_bytes" in found["full"]["at_least"] and found["full"]["peak_full_over_this"] == ""
    text = (tmp_path / "bounds/comparison.md").read_text()
    assert "≥ " in text and "Turning (1 call" in text
    assert r"$\geq$" in (tmp_path / "bounds/comparison.tex").read_text()
    kept = read_comparison(tmp_path / "bounds")
    assert kept is not None and "counted_bytes" in kept.full.at_least and kept.config["unknown"] == "bound"
    assert quick("compare", *flags, *more).code == 2


def test_methods_of_a_language_model_are_compared_by_perplexity(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    done = cli("compare", "--model", "llama_tiny(width=32, depth=2, heads=2, groups=1, hidden=48)", "--data", "text",
               "--sequence-length", "32", "--batch-size", "8", "--methods", "full, linear", "--seeds", "2",
               "--rounds", "0", "--proxy-size", "32", "--train-size", "32", "--val-size", "16", "--epochs", "1",
               "--weights", "random", "--out", folder)  # fmt: skip
    assert done.code == 0 and "accuracy" not in done.out
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = read_records(folder).values()
    for row in rows:
        reached = [record.perplexity or 0.0 for record in runs if record.method == row["method"]]
        assert float(row["perplexity"]) == pytest.approx(sum(reached) / 2)
        assert row["trained_peak_bytes_predicted"] == row["trained_peak_bytes_measured"]
    assert float(rows[1]["perplexity_minus_full"]) == pytest.approx(
        float(rows[1]["perplexity"]) - float(rows[0]["perplexity"])
    )
    page = (folder / "comparison.md").read_text()
    assert "perplexity against memory" in page and "accuracy" not in page
