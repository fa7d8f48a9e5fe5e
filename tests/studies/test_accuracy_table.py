"""The table of real accuracies: what is committed holds what it says, and the script that made it goes on where
it was killed."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.rows import read_rows
from bsr_explorer import Config, build
from bsr_explorer.methods import Method, parse_method
from bsr_explorer.methods.composed import Composed
from studies.accuracy_table import make

COLUMNS = ["method", "replica", "accuracy", "images_trained", "seconds", "history"]
DEPTH = 12


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (make.HERE / "table.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def arguments(weights: Path, table: Path) -> list[str]:
    words = f"--weights {weights} --out {table} --configurations 3 --train-size 32 --val-size 20 --epochs 1"
    return words.split()


def methods_of(rows: list[dict[str, str]]) -> dict[str, Method]:
    return {row["method"]: parse_method(row["method"]) for row in rows}


def test_the_committed_table_is_large(rows: list[dict[str, str]]) -> None:
    assert list(rows[0]) == COLUMNS
    assert len(methods_of(rows)) >= 700
    assert set(Counter(row["method"] for row in rows).values()) == {2}
    assert {row["replica"] for row in rows} == {"0", "1"}


def test_its_expressions_are_canonically_distinct(rows: list[dict[str, str]]) -> None:
    methods = methods_of(rows)
    assert all(str(method) == text for text, method in methods.items())
    assert len({method.canonical(DEPTH) for method in methods.values()}) == len(methods)
    composed = sum(isinstance(method, Composed) for method in methods.values())
    assert composed / len(methods) > 0.18
    assert {
        "linear",
        "full",
        "last(k=3)",
        "checkpoint",
        "bitfit",
        "mesa(bits=8, groups='heads', ema=0.9)",
    } <= set(methods)


def test_the_second_table_is_of_other_configurations(rows: list[dict[str, str]]) -> None:
    others = read_rows(make.TASKS["clothes"].table)
    assert set(Counter(row["method"] for row in others).values()) == {2}
    known, methods = methods_of(rows), methods_of(others)
    assert len(methods) == make.TASKS["clothes"].configurations
    assert len({method.canonical(DEPTH) for method in methods.values()}) == len(methods)
    assert len(methods.keys() & known.keys()) == 61  # those with a name, and choices of few blocks
    assert {len(row["history"].split()) for row in others} == {make.FINE_TUNING.epochs}


def test_some_classes_of_fashion_mnist_are_written_as_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(40) % 10
    pixels = np.full((40, 28, 28), 7, np.uint8) * (labels + 1).astype(np.uint8)[:, None, None]
    monkeypatch.setattr(make, "_fashion_mnist", lambda: (pixels, labels))
    monkeypatch.setattr(make, "IMAGES_A_CLASS", 3)
    task = make.TASKS["clothes"]
    before, then = make.data_of(task, tmp_path)
    for folder, classes, count in ((before, task.before, 4), (then, task.then, 3)):
        found = {path.name: sorted(path.iterdir()) for path in Path(folder).iterdir()}
        assert set(found) == {str(label) for label in classes}
        for label, files in found.items():
            assert len(files) == count
            assert all((np.asarray(Image.open(file)) == 7 * (int(label) + 1)).all() for file in files)
    assert make.data_of(make.TASKS["digits"], tmp_path) == ("fashion_mnist", "digits")


def test_each_row_is_of_a_whole_training(rows: list[dict[str, str]]) -> None:
    for row in rows:
        history = row["history"].split()
        assert len(history) == make.FINE_TUNING.epochs
        assert history[-1] == row["accuracy"]
        assert all(0 <= float(accuracy) <= 1 for accuracy in history)
        assert float(row["seconds"]) > 0
        assert int(row["images_trained"]) == 256 * make.FINE_TUNING.epochs


def test_what_is_trained_matters(rows: list[dict[str, str]]) -> None:
    of: dict[str, float] = Counter()
    for row in rows:
        of[row["method"]] += float(row["accuracy"]) / 2
    assert of["linear"] < of["last(k=3)"] < of["full"] < 0.95
    noise = [
        abs(float(a["accuracy"]) - float(b["accuracy"]))
        for a, b in zip(
            *(sorted((r for r in rows if r["replica"] == k), key=lambda r: r["method"]) for k in "01"),
            strict=True,
        )
    ]
    spread = max(of.values()) - min(of.values())
    assert spread > 10 * sum(noise) / len(noise)


@pytest.mark.thorough
def test_it_goes_on_where_it_was_killed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.csv"
    words = arguments(weights, table)
    with subprocess.Popen([sys.executable, make.__file__, *words], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (table.exists() and len(read_rows(table)) > 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed = read_rows(table)
    assert 0 < len(killed) < 6
    with table.open("a") as lines:
        lines.write('"bsr(blocks=(1, 2')  # the line that a kill tears
    monkeypatch.setattr("sys.argv", ["make.py", *words, "--limit", "1"])
    make.main()
    assert len(read_rows(table)) == len(killed) + 1
    monkeypatch.setattr("sys.argv", ["make.py", *words])
    make.main()
    rows = read_rows(table)
    assert rows[: len(killed)] == killed
    assert list(rows[0]) == COLUMNS
    assert Counter(Counter(row["method"] for row in rows).values()) == {2: 3}
    before = table.read_bytes()
    make.main()
    assert table.read_bytes() == before


def test_a_training_can_be_repeated(weights: Path) -> None:
    splits = make.load("digits", 28, train_size=64, val_size=40)
    config = Config("small_vit", 28, method="last(k=1)")
    first, again, other = (make.train(config, weights, splits, 2, replica) for replica in (0, 0, 1))
    assert (first.scores, first.losses) == (again.scores, again.losses)
    assert first.losses != other.losses
    assert first.images == 128


@pytest.mark.thorough
def test_pretraining_leaves_the_head_to_be_found(tmp_path: Path) -> None:
    config, weights = Config("small_vit", 28), tmp_path / "small_vit.safetensors"
    accuracy = make.pretrain(config, weights, train_size=384, epochs=2, data="digits")
    assert 0 < accuracy <= 1
    fresh = [build(config, weights=str(weights), seed=seed).state_dict() for seed in (0, 1)]
    assert not fresh[0]["head.weight"].equal(fresh[1]["head.weight"])
    assert fresh[0]["blocks.3.mlp.fc1.weight"].equal(fresh[1]["blocks.3.mlp.fc1.weight"])
    assert not fresh[0]["blocks.3.mlp.fc1.weight"].equal(
        build(config).state_dict()["blocks.3.mlp.fc1.weight"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["small_vit.safetensors"]


def test_configurations_are_spread_and_repeatable() -> None:
    config = Config("small_vit", 28)
    methods = make.configurations(config, 120)
    assert list(map(str, methods)) == list(map(str, make.configurations(config, 120)))
    assert len({method.canonical(DEPTH) for method in methods}) == 120
    numbers = Counter(
        len(blocks) for method in methods if (blocks := getattr(method, "blocks", None)) is not None
    )
    assert set(numbers) == set(range(DEPTH + 1))
