"""A training and its folder: what is left, what a kill costs, and what is written later."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

import bsr_explorer as bx
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.finetune.watch import Nobody
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.folder import TRAINING
from bsr_explorer.store.records import Record, read_records
from bsr_explorer.train.recipes import RECIPES
from bsr_explorer.trained import card, onnx
from bsr_explorer.trained import training as module
from bsr_explorer.trained import weights as trained
from bsr_explorer.trained.training import CHECKPOINT, LOCK, Training, check, ended, train, try_out

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

TOY = Experiment(
    "small",
    Config("toy", 48, batch_size=4, method="bsr(blocks=(1, 3), keep={2: 0.5})+mesa"),
    weights="random",
    fidelity=Fidelity(image_size=32, train_size=20, val_size=20, epochs=3, recipe="standard"),
    seed=5,
)


def training(folder: Path, **changes: Any) -> Training:
    return Training(changes.pop("experiment", TOY), folder, folder.parent / "data", **changes)


def go(asked: Training, progress: Any = lambda *said: None) -> tuple[Record, list[Path]]:
    return train(asked, progress, Nobody())


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


DONE = {TRAINING, LOCK, trained.FILE, card.FILE, "records/0000.json"}


@pytest.fixture(scope="module")
def once(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training. Not to be changed."""
    folder = tmp_path_factory.mktemp("once") / "small"
    go(training(folder))
    return folder


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        pytest.fail("it is trained again")

    monkeypatch.setattr(module, "attempt", refused)


# --- what is left ---------------------------------------------------------------------------------------


def test_a_training_leaves_weights_a_card_and_a_record(tmp_path: Path) -> None:
    record, files = go(training(tmp_path / "x", origin="Trial 1 of nothing."))
    expected = fine_tune(TOY.config, "digits", TOY.fidelity, "random", 5, every_epoch=True)
    assert (record.accuracy, record.losses, record.history) == (
        expected.accuracy,
        expected.losses,
        expected.history,
    )
    assert names(tmp_path / "x") == DONE
    assert [file.name for file in files] == [TRAINING, "0000.json", trained.FILE, card.FILE]
    assert read_records(tmp_path / "x")[0] == record
    assert Experiment.from_toml(tmp_path / "x" / TRAINING) == TOY
    assert (tmp_path / "x" / TRAINING).read_text().startswith("# Trial 1 of nothing.\n")
    about = trained.read_about(tmp_path / "x")
    assert about.config == TOY.fidelity.at(TOY.config)
    assert about.classes == tuple("0123456789")
    assert "Trial 1 of nothing." in (tmp_path / "x" / card.FILE).read_text()


def test_the_model_that_is_left_has_the_accuracy_that_was_recorded(once: Path) -> None:
    from bsr_explorer.data.loader import loader
    from bsr_explorer.finetune.job import load_data
    from bsr_explorer.train.loop import evaluate

    job = replace(training(once).job, weights="random")
    validation = load_data(TOY.config, job).validation
    batches = loader(validation, 4, shuffle=False, seed=0, drop_last=False)
    assert evaluate(bx.load(once), batches) == read_records(once)[0].accuracy


def test_what_ended_is_found_and_nothing_is_written(once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_training(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in once.rglob("*")}
    record, files = go(training(once))
    assert record == read_records(once)[0]
    assert [file.name for file in files] == [TRAINING, "0000.json", trained.FILE, card.FILE]
    assert {path: path.stat().st_mtime_ns for path in once.rglob("*")} == before


def test_a_training_that_diverges_leaves_its_record_alone(tmp_path: Path) -> None:
    config = replace(TOY.config, lr=1e30, method="full")
    record, files = go(training(tmp_path / "x", experiment=replace(TOY, config=config)))
    assert record.status == "diverged"
    assert names(tmp_path / "x") == {TRAINING, LOCK, "records/0000.json"}
    assert [file.name for file in files] == [TRAINING, "0000.json"]
    assert ended(training(tmp_path / "x", experiment=replace(TOY, config=config))) is None


def test_without_its_weights_a_training_has_not_ended(once: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(once, tmp_path / "x"))
    assert ended(training(folder)) is not None
    (folder / trained.FILE).unlink()
    assert ended(training(folder)) is None
    go(training(folder))
    assert (folder / trained.FILE).read_bytes() == (once / trained.FILE).read_bytes()


# --- killed ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import tests.toy
from bsr_explorer.cli import main, train
step = train.Run.step
def dying(self, done, total, loss):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, done, total, loss)
train.Run.step = dying
sys.argv = ["bsr-explore", *sys.argv[1:]]
main()
"""
"""Dies in the second of three epochs of five steps."""


@pytest.mark.thorough
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_file(cli: Cli, once: Path) -> None:
    Path("small.toml").write_text(tomli_w.dumps(TOY.to_toml()))
    command = ("train", "small.toml", "--out", "killed", "--checkpoint-every", "0.000001s")
    paths = os.pathsep.join(path for path in sys.path if path)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert names(Path("killed")) == {TRAINING, LOCK, CHECKPOINT}
    outcome = torch.load(Path("killed") / CHECKPOINT)["state"]["outcome"]
    assert (outcome["steps"], len(outcome["running"])) == (7, 2)
    done = cli(*command)
    assert done.code == 0, done.err
    assert "epoch 1 of 3" not in done.err
    assert "epoch 2 of 3: loss " in done.err
    assert names(Path("killed")) == DONE
    assert (Path("killed") / trained.FILE).read_bytes() == (once / trained.FILE).read_bytes()


def test_a_full_disk_at_the_end_costs_no_more_than_a_kill(
    once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked = training(tmp_path / "x", checkpoint_every=0.0)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as error:
        patch.setattr(trained, "save", full)
        go(asked)
    assert error.value.filename == str(tmp_path / "x" / trained.FILE)
    assert "the last checkpoint is kept: the same command goes on from it" in str(error.value)
    assert names(tmp_path / "x") == {TRAINING, LOCK, CHECKPOINT}
    steps: list[int] = []
    go(asked, lambda done, total, loss: steps.append(done))
    assert steps == [15]
    assert names(tmp_path / "x") == DONE
    assert (tmp_path / "x" / trained.FILE).read_bytes() == (once / trained.FILE).read_bytes()


def test_what_failed_goes_on_where_it_was(once: Path, tmp_path: Path) -> None:
    def broken(done: int, total: int, loss: float) -> None:
        if done == 9:
            raise RuntimeError("no luck")

    asked = training(tmp_path / "x", checkpoint_every=0.0)
    record, files = go(asked, broken)
    assert (record.status, [file.name for file in files]) == ("failed", [TRAINING, "0000.json"])
    assert names(tmp_path / "x") == {TRAINING, LOCK, CHECKPOINT, "records/0000.json"}
    steps: list[int] = []
    go(asked, lambda done, total, loss: steps.append(done))
    assert steps[0] == 9
    assert names(tmp_path / "x") == DONE
    assert (tmp_path / "x" / trained.FILE).read_bytes() == (once / trained.FILE).read_bytes()


# --- later ----------------------------------------------------------------------------------------------


def test_the_test_set_is_evaluated_later_without_training_again(
    once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    expected, _ = go(training(tmp_path / "at_once", test=True))
    folder = Path(shutil.copytree(once, tmp_path / "later"))
    no_training(monkeypatch)
    record, _ = go(training(folder, test=True))
    assert record.test_accuracy == expected.test_accuracy
    assert record.test_accuracy is not None
    assert read_records(folder)[0] == record
    said = f"| test (360 images) | {100 * record.test_accuracy:.1f}% | the same, once |"
    for name in ("at_once", "later"):
        assert said in (tmp_path / name / card.FILE).read_text()
    assert said not in (once / card.FILE).read_text()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Nothing is really exported; notes what would be."""
    models: list[Any] = []

    def noted(model: Any, image_size: int) -> bytes:
        models.append(model)
        assert image_size == 32
        return b"onnx"

    monkeypatch.setattr(onnx, "to_onnx", noted)
    monkeypatch.setattr(onnx, "difference", lambda content, model, size: 2.5e-7)
    return models


def test_onnx_is_written_later_without_training_again(
    once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: list[Any]
) -> None:
    import shutil

    folder = Path(shutil.copytree(once, tmp_path / "x"))
    no_training(monkeypatch)
    _, files = go(training(folder, onnx=True))
    assert [file.name for file in files] == [TRAINING, "0000.json", trained.FILE, onnx.FILE, card.FILE]
    assert (folder / onnx.FILE).read_bytes() == b"onnx"
    assert "logits differ by at most 2.5e-07 of the largest" in (folder / card.FILE).read_text()
    go(training(folder, onnx=True))
    assert len(exported) == 1
    _, files = go(training(folder))
    assert onnx.FILE in [file.name for file in files]


def test_an_export_is_tried_before_anything_is_trained(tmp_path: Path, exported: list[Any]) -> None:
    asked = training(tmp_path / "x", onnx=True)
    try_out(asked)
    (model,) = exported
    assert not model.training
    assert not any(name.endswith("running") for name, _ in model.named_buffers())  # Mesa's, of training alone
    assert type(model.blocks[2]).__name__ == "TokenDropBlock"
    assert not (tmp_path / "x").exists()
    try_out(training(tmp_path / "x"))
    assert len(exported) == 1


# --- refused --------------------------------------------------------------------------------------------


def test_another_training_in_the_folder_is_refused(once: Path) -> None:
    with pytest.raises(UserError, match=r"holds another training \(study.seed: 5 → 6\)"):
        ended(training(once, experiment=replace(TOY, seed=6)))


def test_a_missing_exporter_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'needs onnx and onnxscript; install with pip install "bsr-explorer\[onnx\]"'
    ):
        check(training(tmp_path / "x", onnx=True))
    check(training(tmp_path / "x"))


def test_the_recipe_for_models_that_are_kept_has_no_flips() -> None:
    assert RECIPES["standard"].augment == "crop"
    assert RECIPES["standard"].optimizer == RECIPES["short"].optimizer
    assert RECIPES["standard"].epochs > RECIPES["short"].epochs


def test_weights_are_those_of_a_plain_model(once: Path) -> None:
    plain = bx.build(Config("toy", 32, method="full")).state_dict()
    assert {name: tensor.shape for name, tensor in load_file(once / trained.FILE).items()} == {
        name: tensor.shape for name, tensor in plain.items()
    }
