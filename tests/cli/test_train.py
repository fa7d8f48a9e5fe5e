"""``bsr-explore train``: one configuration, trained as its file says, and never lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bsr_explorer.cli.train import Run
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.run import fine_tune
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.training import CHECKPOINT, FILE

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
    assert Experiment.from_toml(folder / FILE) == TOY
    assert not (folder / CHECKPOINT).exists()
    assert record.accuracy is not None
    assert f"accuracy {100 * record.accuracy:.1f}% (top-1 on validation" in done.out
    assert record.measured is not None
    peak = next(line.split() for line in done.out.splitlines() if line.startswith("peak "))
    assert peak[1:3] == [
        f"{record.measured[key] / 1e6:,.1f}" for key in ("predicted_peak_bytes", "peak_bytes")
    ]
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


def test_what_was_trained_is_not_trained_again(cli: Cli, file: Path) -> None:
    first = cli("train", file, "--epochs", "1", "--json")
    path = Path("runs/small/records/0000.json")
    before = path.read_bytes()
    again = cli("train", file, "--epochs", "1", "--json")
    assert (again.code, again.out) == (0, first.out)
    assert "it was trained already" in again.err
    assert path.read_bytes() == before


def test_ctrl_c_loses_no_finished_epoch(
    cli: Cli, file: Path, expected: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    real = Run.step

    def interrupted(self: Run, done: int, total: int, loss: float) -> None:
        steps.append(done)
        if done == 12:  # of 15: in the last epoch of three
            signal.raise_signal(signal.SIGINT)
        real(self, done, total, loss)

    monkeypatch.setattr(Run, "step", interrupted)
    done = cli("train", file)
    assert done.code == 130
    assert "the same command goes on" in done.err
    assert (Path("runs/small") / CHECKPOINT).exists()
    assert not Path("runs/small/records").exists()
    monkeypatch.setattr(Run, "step", lambda self, done, total, loss: steps.append(done))
    assert cli("train", file).code == 0
    assert steps == [*range(1, 13), *range(11, 16)]
    (record,) = read_records(Path("runs/small")).values()
    assert (record.accuracy, record.losses, record.history) == (
        expected.accuracy,
        expected.losses,
        expected.history,
    )


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

    from rich.progress import Progress

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(disable=True) as progress:
        watcher = Run(progress, "one")
        watcher.step(11, 31, 2.5)  # on from a checkpoint: its first ten were not timed
        assert progress.tasks[0].fields["left"] == "loss 2.500"
        now[0] += 20
        watcher.step(21, 31, 2.0)
        assert progress.tasks[0].fields["left"] == "loss 2.000, about 20 s left"
        assert progress.tasks[0].completed == pytest.approx(21 / 31)
