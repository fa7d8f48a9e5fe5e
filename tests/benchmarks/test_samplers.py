"""The benchmark of samplers: on a small table, with every strategy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import samplers
from benchmarks.spaces import Tabled, read_table
from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import parse_method
from bsr_explorer.pareto import hypervolume
from studies.accuracy_table.hints import hints_of, schedule_of

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains

METHODS = (
    *(f"last(k={k})" for k in range(1, 9)),
    *(f"bsr(blocks=({b}, 11), keep={{{d}: 0.5}}, fuse=True)" for b in range(4, 10) for d in (3, 6)),
    "linear",
    "last(k=3)+mesa",
    "last(k=3)+checkpoint",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 23 configurations, 2 replicas each."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = ["method,replica,accuracy,images_trained,seconds,history"]
    for place, method in enumerate(METHODS):
        for replica in range(2):
            accuracy = 0.5 + 0.01 * (place * 7 % 23) + 0.002 * replica
            lines.append(f'"{method}",{replica},{accuracy:.4f},300,1.0,{accuracy - 0.1:.4f} {accuracy:.4f}')
    path.write_text("\n".join(lines) + "\n")
    return path


def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    monkeypatch.setattr(sys, "argv", ["samplers.py", *map(str, arguments)])
    monkeypatch.setattr(samplers, "_SPACES", {})
    samplers.main()
    return capsys.readouterr().out


def test_every_strategy_on_a_table(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ran(
        monkeypatch,
        capsys,
        *(
            "--table",
            table,
            "--model",
            "deit_t",
            "--image-size",
            "64",
            "--batch-size",
            "8",
            "--budget",
            "90MB",
        ),
        *("--seeds", "2", "--trainings", "9", "--jobs", "1", "--json", "--out", tmp_path),
    )
    answer = json.loads(said)
    assert set(answer) == set(samplers.STRATEGIES) - set(samplers.HINTS)
    for strategy, curve in answer.items():
        assert len(curve["mean"]) == len(curve["std"]) == 9
        assert curve["mean"] == sorted(curve["mean"]), strategy
        assert 0 < curve["mean"][-1] <= 1
        assert curve["images"] == sorted(curve["images"])
    assert answer["random"]["images"] == [300.0 * n for n in range(1, 10)]
    assert (tmp_path / "samplers.png").stat().st_size > 10_000


SMALL = ("--model", "deit_t", "--image-size", "64", "--batch-size", "8", "--budget", "90MB", "--seeds", "1")


def test_what_is_known_before_any_training_is_a_guess(table: Path) -> None:
    hints = hints_of(table)
    transfer = {schedule_of(parse_method(method)): -float(n) for n, method in enumerate(METHODS)}
    hints.write_text(json.dumps({"sensitivity": [*range(1, 13)], "transfer": transfer}))
    try:
        choices = Tabled(read_table(table), Config("deit_t", 64, batch_size=8), 90_000_000, hints)
    finally:
        hints.unlink()
    for kind in ("sensitivity", "transfer"):
        guess, _ = samplers.Hint(choices, kind).predict(choices.features)
        assert (guess.mean(), guess.std()) == pytest.approx((0, 1))
        of = dict(zip(METHODS, guess, strict=True))
        if kind == "sensitivity":
            assert of["linear"] == min(guess)
            assert of["last(k=8)"] == max(guess)
            assert of["last(k=1)"] < of["last(k=2)"]
        else:
            assert of["last(k=1)"] == of["linear"] == min(guess)  # no drops, last in the table


def test_hints_need_their_file(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["samplers.py", "--table", str(table), *SMALL, "--samplers", samplers.HINTS[0]]
    )
    monkeypatch.setattr(samplers, "_SPACES", {})
    with pytest.raises(SystemExit, match=r"--samplers: exact\+sensitivity needs a table with hints"):
        samplers.main()


def test_the_whole_table_is_a_hypervolume_of_one(table: Path) -> None:
    space = samplers.Tabled(samplers.read_table(table), Config("deit_t", 64, batch_size=8), 1.0)
    run = samplers.search(space, "random", 0, 99)
    assert len(run.volume) == len(space.fitting)
    assert run.volume[-1] == pytest.approx(1)
    assert run.volume[0] < 1
    sizes, truth = space.sizes[space.fitting], space.truth[space.fitting]
    assert space.whole == hypervolume(sizes.tolist(), truth.tolist(), space.budget_bytes)


def test_what_cannot_be_trained_becomes_the_nearest_row(table: Path) -> None:
    space = samplers.Tabled(samplers.read_table(table), Config("deit_t", 64, batch_size=8), 1.0)
    wanted = space.candidate(1)
    params = space.encode(wanted)
    assert space.asked(params, set()).key == wanted.key
    other = space.asked(params, {wanted.key})
    assert other.key != wanted.key
    assert (space.codes[int(other.key)] != space.codes[1]).sum() <= 2  # last(k=1) or last(k=3), or with mesa


def test_the_synthetic_space_is_one_space(monkeypatch: pytest.MonkeyPatch) -> None:
    space = samplers.Synthetic(0.3, 4)
    assert len(space.sizes) == 4 * 27 * 4096
    assert 0.25 < (space.sizes <= space.budget_bytes).mean() < 0.35
    generator = np.random.default_rng(0)
    for row in generator.choice(space.fitting, 5):
        candidate = space.candidate(int(row))
        assert space.decode(space.encode(candidate)).key == candidate.key
        assert space.asked(space.encode(candidate), set()).key == candidate.key
        assert str(space.config(int(row)).how)
    run = samplers.search(space, "exact+rungs", 0, 8)
    assert len(run.volume) == 8
    assert np.array_equal(samplers.Synthetic(0.3, 4).truth, space.truth)
    assert not np.array_equal(samplers.Synthetic(0.3, 5).truth, space.truth)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samplers", "exact,best"], "--samplers: 'best'"),
        (["--table", "nowhere.csv"], "--table: nowhere.csv"),
        (["--budget", "1KB"], "--budget: "),
        (["--budget", "2G"], "'2G'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[Any] = [*arguments] if "--table" in arguments else ["--table", table, *arguments]
    with pytest.raises(SystemExit) as end:
        ran(monkeypatch, capsys, "--model", "deit_t", "--jobs", "1", *given)
    assert said in str(end.value)


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("method,accuracy\nlinear,0.5\n")
    with pytest.raises(UserError, match="'replica'"):
        samplers.read_table(path)
