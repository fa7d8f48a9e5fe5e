"""The rank correlation benchmark: small, and its sums on trainings whose answer is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks import rank_correlation
from bsr_explorer import Config, Fidelity, build
from bsr_explorer.report import style

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains

FALLING = {f"m{place}": {0: [0.1, 0.9 - place / 10], 1: [0.1, 0.9 - place / 10]} for place in range(6)}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    weights = tmp_path / "small_vit.safetensors"
    state = build(Config("small_vit", 28, method="full")).state_dict()
    save_file({name: w for name, w in state.items() if not name.startswith("head.")}, weights)
    words = "--configurations 3 --epochs 2 --train-size 64 --val-size 20 --orders 4 --json"
    monkeypatch.setattr(
        "sys.argv",
        ["rank_correlation.py", "--weights", str(weights), "--out", str(tmp_path / "out"), *words.split()],
    )
    monkeypatch.setattr(style, "UNDATED", {"png": style.UNDATED["png"]})
    return [f"small_vit-2-epochs.{kind}" for kind in ("csv", "md", "png")]


def test_it_trains_what_is_missing_and_writes_tables(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rank_correlation.main()
    said = json.loads(capsys.readouterr().out)
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == small
    kinds = {(row["kind"], row["what"]) for row in said["fidelities"]}
    assert kinds == {
        ("within the long training", "epoch 1 of 2"),
        ("the long training", "another seed: the ceiling"),
        ("fewer epochs, own schedule", "1 epochs"),
        ("fewer images", "32 images"),
        ("smaller images", "14 px"),
        ("smaller images", "21 px"),
    }
    shares = {row["what"]: row["share"] for row in said["fidelities"]}
    assert shares["1 epochs"] == shares["32 images"] == shares["epoch 1 of 2"] == 0.5
    assert shares["14 px"] < shares["21 px"] < 1
    assert [row["rungs"] for row in said["ladders"]] == [[1], [1], [1]]
    file = folder / "small_vit-2-epochs.csv"
    with file.open(newline="") as lines:
        trainings = list(csv.DictReader(lines))
    assert len(trainings) == 3 * (2 + 4)
    whole, table = file.read_text(), (folder / "small_vit-2-epochs.md").read_text()
    file.write_text(whole[: whole.rindex("\n", 0, -1) + 20])  # the last one was torn
    rank_correlation.main()
    assert len(file.read_text().splitlines()) == len(whole.splitlines())
    assert file.read_text().splitlines()[:-1] == whole.splitlines()[:-1]
    assert (folder / "small_vit-2-epochs.md").read_text() == table


def test_a_table_needs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["method,replica,accuracy,images_trained,seconds,history"]
    for k in (1, 2, 3, 4, 5):
        lines += [f"last(k={k}),{r},0.{k + 2},1024,1.0,0.1 0.{k} 0.{k + 1} 0.{k + 2}" for r in (0, 1)]
    (tmp_path / "table.csv").write_text("\n".join([*lines, "last(k=6),0,0.9,1024,1.0,0 0 0 0.9", ""]))
    words = ["--table", str(tmp_path / "table.csv"), "--out", str(tmp_path), "--orders", "2"]
    monkeypatch.setattr("sys.argv", ["rank_correlation.py", *words])
    rank_correlation.main()
    page = (tmp_path / "table.md").read_text()
    assert page.startswith(
        "5 configurations of the table, long trainings of each: 2; 4 epochs of 256 images at 28 px"
    )
    assert "| within the long training: epoch 2 of 4 | 50% | 1.000 ± 0.000 | 1.000 | 30.0 |" in page


def test_correlation_is_with_another_seed() -> None:
    names = list(FALLING)
    swapped = {name: {0: of[0], 1: [0.1, 1 - of[1][1]]} for name, of in FALLING.items()}
    found = rank_correlation.row("", "", 1.0, names, swapped, FALLING, -1)
    assert found["spearman"] == pytest.approx(0)  # replica 0 agrees with 1, and 1 disagrees with 0
    found = rank_correlation.row(
        "", "", 1.0, names, {n: {0: of[0]} for n, of in FALLING.items()}, swapped, -1
    )
    assert found["spearman"] == pytest.approx(-1)  # of the same seed it would be 1


def test_a_trial_stops_where_those_of_no_more_memory_are_better() -> None:
    histories = [[0.5, 0.6], [0.6, 0.7], [0.6, 0.7], [0.1, 0.99], [0.1, 0.2]]
    sizes = np.array([10, 20, 30, 40, 50])
    ran = rank_correlation.climb([0, 1, 2, 4, 3], histories, sizes, rank_correlation.OURS, (1,), 1000)
    assert ran.tolist() == [
        2,
        2,
        2,
        1,
        2,
    ]  # the largest is an extreme; what would have come later is not seen
    assert (
        rank_correlation.climb([3, 0, 1, 2, 4], histories, sizes, rank_correlation.OURS, (1,), 1000).tolist()
        == [2] * 5
    )


def test_what_a_ladder_loses_is_counted() -> None:
    sizes = {name: 100 + place for place, name in enumerate(FALLING)}
    long = {name: {r: list(h) for r, h in of.items()} for name, of in FALLING.items()}
    long["late"] = {0: [0.0, 0.95], 1: [0.0, 0.95]}  # the best in the end, the worst at the rung
    sizes["late"] = 104
    row, briefly, median = rank_correlation.replay(long, sizes, Fidelity(28, 64, 1000, epochs=2), 400)
    assert row["rungs"] == [1]
    assert row["front"] == 2
    assert 0.1 < row["front_stopped"] < 0.5  # half of the front, where enough came before it
    assert row["regret"] == pytest.approx(row["front_stopped"] * 0.05)
    assert row["worst_regret"] == pytest.approx(2 * row["regret"])
    assert row["epochs"] == pytest.approx(1 - row["stopped"] / 2)
    assert briefly["front_stopped"] == 0.5  # where all wait for each other it has always been beaten
    assert 0 < median["front_stopped"] < 0.5
