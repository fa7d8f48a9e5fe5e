"""``bsr-explore train``: one configuration, trained as its file says, and never lost."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console
from rich.progress import Progress

from bsr_explorer.cli import STOPPED
from bsr_explorer.cli.train import Run
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.contents import Contents
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.report.choice import knee, recommend
from bsr_explorer.report.front import study_front
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import TRAINING
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.trained import training as training_module
from bsr_explorer.trained.training import CHECKPOINT, Training
from bsr_explorer.units import format_mb
from tests.pictures import Pictures
from tests.pressing import DROPPED, press

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

TOY = Experiment(
    "small",
    Config("toy", 48, batch_size=4, method="last(k=1)"),
    weights="random",
    fidelity=Fidelity(image_size=32, train_size=20, val_size=20, epochs=3),
    seed=5,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(TOY.to_toml()))
    return path


@pytest.fixture(scope="module")
def expected(toy: str) -> Record:
    """What an uninterrupted run comes to."""
    return fine_tune(TOY.config, TOY.data, TOY.fidelity, TOY.weights, TOY.seed, every_epoch=True)


def test_it_is_trained_as_the_file_says(cli: Cli, file: Path, expected: Record) -> None:
    done = cli("train", file)
    assert done.code == 0, done.err
    folder = Path("runs/small")
    (record,) = read_records(folder).values()
    assert (record.accuracy, record.losses) == (expected.accuracy, expected.losses)
    assert (record.config, record.fidelity, record.seed) == (
        TOY.config.to_dict(),
        expected.fidelity,
        5,
    )
    assert Experiment.from_toml(folder / TRAINING) == TOY
    assert not (folder / CHECKPOINT).exists()
    assert record.accuracy is not None
    assert f"accuracy {100 * record.accuracy:.1f}% (top-1 on validation" in done.out
    assert record.measured is not None
    peak = next(line.split() for line in done.out.splitlines() if line.startswith("peak "))
    assert peak[1:3] == [format_mb(record.measured[key]) for key in ("predicted_peak_bytes", "peak_bytes")]
    assert "predicted peak: " in done.out
    assert "at 48 px; " in done.out


def test_flags_stand_instead_of_the_file(cli: Cli, file: Path) -> None:
    flags = ("--epochs", "1", "--train-size", "12", "--seed", "9", "--out", "here", "--device", "cpu")
    done = cli("train", file, *flags, "--test", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["folder"], said["seed"], said["images_trained"]) == ("here", 9, 12)
    assert (said["fidelity"]["epochs"], said["fidelity"]["train_size"]) == (1, 12)
    assert 0 <= said["test_accuracy"] <= 1
    assert read_records(Path("here"))[0].to_dict().items() <= said.items()
    assert not Path("runs").exists()


@pytest.mark.thorough
def test_the_authors_protocol_is_said_with_each_number(cli: Cli, file: Path) -> None:
    flags = ("--protocol", "authors", "--epochs", "2", "--out", "here")
    refused = cli("train", file, *flags)
    assert refused.code == 2
    assert (
        "--train-size: 20 is not allowed with --protocol authors, which takes all 1437 training"
        in refused.err
    )
    whole = Experiment("all", TOY.config, weights="random", fidelity=Fidelity(image_size=32))
    file.write_text(tomli_w.dumps(whole.to_toml()))
    done = cli("train", file, *flags)
    assert done.code == 0, done.err
    (record,) = read_records(Path("here")).values()
    assert "protocol authors: for reproduction alone" in done.out
    assert record.accuracy == max(record.history)
    assert f"accuracy {100 * max(record.history):.1f}% ({record.accuracy_is})" in done.out
    assert f"{100 * record.history[-1]:.1f}% on test after the last epoch" in done.out
    assert "% on test, peak" in done.err and "% on validation" not in done.err
    assert "best on test, authors' protocol" in Path("here/model_card.md").read_text()


def test_what_was_trained_is_not_trained_again(cli: Cli, file: Path) -> None:
    first = cli("train", file, "--epochs", "1", "--json")
    path = Path("runs/small/records/0000.json")
    before = path.read_bytes()
    again = cli("train", file, "--epochs", "1", "--json")
    assert (again.code, again.out) == (0, first.out)
    assert "it was trained already" in again.err
    assert path.read_bytes() == before


def test_json_names_the_files(cli: Cli, file: Path) -> None:
    said = json.loads(cli("train", file, "--epochs", "1", "--json").out)
    assert said["files"] == [
        f"runs/small/{name}"
        for name in ("train.toml", "records/0000.json", "model.safetensors", "model_card.md")
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("pressed", [press, *DROPPED])
def test_ctrl_c_loses_no_finished_epoch(
    pressed: Callable[[], None], cli: Cli, file: Path, expected: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    real = Run.step

    def interrupted(self: Run, done: int, total: int, loss: float) -> None:
        steps.append(done)
        if done == 12:  # of 15: in the last epoch of three
            pressed()
        real(self, done, total, loss)

    monkeypatch.setattr(Run, "step", interrupted)
    done = cli("train", file)
    assert done.code == 130
    assert "the same command goes on" in done.err
    assert (Path("runs/small") / CHECKPOINT).exists()
    assert not Path("runs/small/records").exists()
    monkeypatch.setattr(Run, "step", lambda self, done, total, loss: steps.append(done))
    again = cli("train", file)
    assert again.code == 0
    assert "folder: runs/small (goes on from its checkpoint)" in again.out
    assert steps == [*range(1, 13), *range(11, 16)]
    (record,) = read_records(Path("runs/small")).values()
    assert (record.accuracy, record.losses, record.history) == (
        expected.accuracy,
        expected.losses,
        expected.history,
    )


@pytest.mark.parametrize("pressed", DROPPED)
def test_ctrl_c_that_python_drops_before_the_training_ends_it(
    pressed: Callable[[], None], cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "try_out", lambda asked, **_: pressed() or (asked, Contents()))
    done = cli("train", file)
    assert done.code == 130
    assert done.err.splitlines()[-1] == STOPPED
    assert not Path("runs/small/records").exists()


def test_ctrl_c_that_python_drops_at_the_end_is_said(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsr_explorer.cli.train.show_trained", lambda record, files, title: DROPPED[0]())
    done = cli("train", file, "--epochs", "1")
    assert (done.code, done.err.splitlines()[-1]) == (130, STOPPED)
    assert read_records(Path("runs/small"))[0].status == "finished"


# --- of a study -----------------------------------------------------------------------------------------


def test_the_configuration_of_a_front_is_trained_as_it_was_searched(cli: Cli, study_folder: Path) -> None:
    choice = knee(study_front(study_folder))
    point = choice.point
    done = cli("train", study_folder, "--select", "knee", "--as-searched")
    assert done.code == 0, done.err
    folder = Path("runs") / f"toy-study-trial-{point.number}"
    (record,) = read_records(folder).values()
    assert (record.config, record.seed) == (point.record.config, point.record.seed)
    assert record.fidelity == point.record.fidelity
    assert (record.accuracy, record.losses) == (point.record.accuracy, point.record.losses)
    assert f"Taken because: {choice.reason}." in done.out
    assert "Not as in the search" not in done.out
    card = (folder / "model_card.md").read_text()
    assert f"Trial {point.number} of the study {study_folder}. Taken because: {choice.reason}." in card
    again = cli("train", study_folder, "--select", "knee")
    assert again.code == 2
    assert "holds another training (" in again.err
    assert "fidelity.recipe: 'short' → 'standard'" in again.err


def test_if_nothing_else_is_said_it_is_trained_in_full(
    cli: Cli, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Training] = []

    def stop(training: Training, **_: Any) -> None:
        asked.append(training)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_module, "try_out", stop)
    record = read_records(study_folder)[3]
    assert cli("train", study_folder, "--select", "trial 3").code == 130
    experiment = asked[0].experiment
    assert experiment.config == Config.from_dict(record.config)
    assert experiment.fidelity == Fidelity(recipe="standard")
    assert (experiment.data, experiment.weights, experiment.seed) == ("digits", "random", record.seed)
    assert asked[0].folder == Path("runs/toy-study-trial-3")
    flags = (
        *("--epochs", 2, "--train-size", 30, "--val-size", 25, "--proxy-size", 32, "--recipe", "short"),
        *("--seed", 7, "--weights", "offline", "--checkpoint-every", "30s", "--test", "--export", "onnx"),
    )
    assert cli("train", study_folder, *flags).code == 130
    experiment = asked[1].experiment
    assert experiment.fidelity == Fidelity(32, 30, 25, 2, "short")
    assert (experiment.weights, experiment.seed) == ("offline", 7)
    assert (asked[1].checkpoint_every, asked[1].test, asked[1].onnx) == (30.0, True, True)
    number = recommend(study_front(study_folder)).point.number
    assert asked[1].folder == Path(f"runs/toy-study-trial-{number}")


def test_what_is_trained_otherwise_than_in_the_study_is_said(cli: Cli, study_folder: Path) -> None:
    flags = ("--train-size", 20, "--val-size", 20, "--epochs", 1, "--proxy-size", 32, "--test")
    done = cli("train", study_folder, "--select", "trial 3", *flags)
    assert done.code == 0, done.err
    assert (
        "Not as in the search (--as-searched), where it saw 20 images at 32 px; epochs: 1, recipe: short."
        in done.out
    )
    assert "recipe standard (ours: a full training; crops, but no flips" in done.out
    assert "epoch 1 of 1: loss " in done.err
    folder = Path("runs/toy-study-trial-3")
    written = done.out[done.out.index("Written:\n") :].split()[1:]
    assert written == [
        str(folder / name)
        for name in ("train.toml", "records/0000.json", "model.safetensors", "model_card.md")
    ]
    there = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert there == {*written, str(folder / "train.lock")}


# --- what goes wrong ------------------------------------------------------------------------------------


def test_a_training_that_fails_leaves_its_reason(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Run, done: int, total: int, loss: float) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", broken)
        done = cli("train", file)
    assert done.code == 1
    assert done.err.strip().startswith("error: failed: RuntimeError at ")
    assert "no luck; the record is in runs/small" in done.err
    assert read_records(Path("runs/small"))[0].status == "failed"
    assert cli("train", file).code == 0
    assert read_records(Path("runs/small"))[0].status == "finished"


def test_the_bar_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(disable=True) as progress:
        watcher = Run(progress, "one", "validation")
        watcher.step(11, 31, 2.5)  # on from a checkpoint: its first ten were not timed
        assert progress.tasks[0].fields["left"] == "loss 2.500"
        now[0] += 20
        watcher.step(21, 31, 2.0)
        assert progress.tasks[0].fields["left"] == "loss 2.000, about 20 s left"
        assert progress.tasks[0].completed == pytest.approx(21 / 31)


def test_what_a_step_holds_is_shown_beside_its_prediction_and_after_each_epoch() -> None:
    text = io.StringIO()
    with Progress(console=Console(file=text, width=200), disable=True) as progress:
        watcher = Run(progress, "one", "validation")
        watcher.epoch(1, 3, 1.25, 0.5)
        watcher.peak(1_500_000, 1_400_000)
        assert progress.tasks[0].description == "one, peak 1.5 MB, predicted 1.4 MB"
        watcher.left = "about 9 s left"
        watcher.epoch(2, 3, 1.0, 0.625)
        watcher.epoch(3, 3, 0.5, 0.75)
    assert text.getvalue().splitlines() == [
        "epoch 1 of 3: loss 1.250, 50.0% on validation",
        "epoch 2 of 3: loss 1.000, 62.5% on validation, peak 1.5 MB, predicted 1.4 MB  [about 9 s left]",
        "epoch 3 of 3: loss 0.500, 75.0% on validation, peak 1.5 MB, predicted 1.4 MB",
    ]


def test_damaged_images_are_named_or_left_out(cli: Cli, pictures: Pictures, tmp_path: Path) -> None:
    file = tmp_path / "of_pictures.toml"
    config = replace(TOY.config, num_classes=2)
    experiment = replace(
        TOY, config=config, data=str(pictures.root), fidelity=Fidelity(image_size=32, epochs=1)
    )
    file.write_text(tomli_w.dumps(experiment.to_toml()))
    done = cli("train", file)
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err.splitlines()[-1] for name in pictures.bad)
    assert not Path("runs").exists()
    done = cli("train", file, "--skip-bad")
    assert done.code == 0, done.err
    assert "2 classes, with their training images: a 15, b 15; left out: 3 damaged" in done.out
    folder = Path("runs/small")
    (record,) = read_records(folder).values()
    assert (record.fidelity["skip"], record.left_out) == (list(pictures.bad), {"damaged": 3})
    assert Experiment.from_toml(folder / TRAINING).fidelity.skip == pictures.bad
    card = (folder / "model_card.md").read_text()
    assert (
        "| class | train | validation | test |\n|---|---|---|---|\n| a | 15 | 2 | 2 |\n| b | 15 | 1 | 2 |"
        in card
    )
    assert "left out: 3 damaged. The damaged ones are `a/01.png`, `b/00.png`, `b/17.png`." in card
    for again in ([], ["--skip-bad"]):
        done = cli("train", file, *again)
        assert (done.code, done.err.strip()) == (0, "it was trained already; its record is in runs/small")
    done = cli("train", file, "--out", "other")
    assert done.code == 2
    pictures.repair(remove=True)
    assert cli("train", file, "--out", "other").code == 0


LLAMA = "llama_tiny(width=32, depth=2, heads=2, groups=1, hidden=48)"
"""A tiny language model."""

TEXT = [
    "--sequence-length",
    "32",
    "--batch-size",
    "8",
    "--train-size",
    "32",
    "--val-size",
    "16",
    "--epochs",
    "1",
]


def test_a_language_model_is_pretrained_and_fine_tuned(cli: Cli, tmp_path: Path) -> None:
    first = cli("train", "--model", LLAMA, "--data", "python", "--method", "full", "--weights", "random", *TEXT,
                "--out", tmp_path / "first", "--json")  # fmt: skip
    pretrained = json.loads(first.out)
    assert (first.code, pretrained["quality"], pretrained["accuracy"]) == (0, "perplexity", None)
    assert 1 < pretrained["perplexity"] < 400 and pretrained["history"] == [pretrained["perplexity"]]
    weights = tmp_path / "first" / "model.safetensors"
    second = cli("train", "--model", LLAMA, "--data", "text", "--method", "lora(r=2)", "--weights", weights, *TEXT,
                 "--test", "--out", tmp_path / "second")  # fmt: skip
    assert second.code == 0
    (record,) = read_records(tmp_path / "second").values()
    assert record.weights.startswith(f"file: {weights}") and record.test_perplexity is not None
    assert f"perplexity {record.perplexity:.3f} (perplexity a token on validation" in second.out
    assert record.measured is not None
    for kind in ("peak", "saved"):
        assert record.measured[f"{kind}_bytes"] == record.measured[f"predicted_{kind}_bytes"]
    card = (tmp_path / "second" / "model_card.md").read_text()
    assert f"| validation (16 sequences) | {record.perplexity:.3f} |" in card and "## Perplexity" in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", LLAMA, "--data", "digits"], "--data: .* is a language model, and 'digits' is no text"),
        (["--model", "toy", "--data", "text"], "--data: 'text' is text, and toy takes images"),
        (["--model", LLAMA, "--data", "text", "--sequence-length", "600"], "--sequence-length: 600 tokens"),
        (["--model", "llama_tiny(vocabulary=99)", "--data", "text"], "--model: .* has a vocabulary of 99"),
        (
            ["--model", LLAMA, "--data", "text", "--method", "evit"],
            "--method: a language model is causal.*evit",
        ),
        (["--model", LLAMA, "--data", "text", "--protocol", "authors"], "--protocol: authors is of images"),
        (["--model", LLAMA, "--data", "text", "--export", "onnx"], "--export: onnx is for models of images"),
        (["--select", "knee"], "--select: there is no study"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_written(
    cli: Cli, words: list[str], said: str, tmp_path: Path
) -> None:
    usual = ["--sequence-length", "32", "--method", "full", "--weights", "random", "--out", tmp_path / "made"]
    done = cli("train", *usual, *words)
    assert done.code == 2
    assert re.search(f"^error: {said}", done.err, re.MULTILINE)
    assert not (tmp_path / "made").exists()


def test_flags_of_a_configuration_do_not_stand_beside_a_file(cli: Cli, file: Path) -> None:
    done = cli("train", file, "--method", "full")
    assert done.code == 2 and done.err.startswith("error: --method: ") and "says it already" in done.err
