"""The benchmark of cached prefixes trains the same trials both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import prefix_cache
from bsr_explorer.config import Config, Fidelity

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains

SMALL = "--data digits --image-size 32 --batch-size 4 --train-size 20 --val-size 20 --epochs 1 --device cpu"


@pytest.mark.usefixtures("toy")
def test_trials_are_the_same_with_and_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = f"--models toy,toy_2 --method last(k=1) --trials 2 --out {tmp_path / 'table.json'} {SMALL}"
    monkeypatch.setattr("sys.argv", ["prefix_cache.py", *options.split()])
    prefix_cache.main()
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split("|")[2].strip() for line in lines] == ["3 of 4", "1 of 2"]
    assert all("the same to the last bit" in line for line in lines)
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["model"], row["trials"], row["identical"]) for row in rows] == [
        ("toy", 2, True),
        ("toy_2", 2, True),
    ]
    assert all(row["faster"] == row["seconds"] / row["cached_seconds"] for row in rows)


@pytest.mark.usefixtures("toy")
def test_random_weights_are_those_of_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    row = prefix_cache.study(
        Config("toy", 32, batch_size=4, method="last(k=1)"), Fidelity(32, 20, 20, 1), "digits", "random", 3
    )
    assert row["cached_blocks"] == 3
    assert row["identical"]


@pytest.mark.parametrize(("blocks", "most"), [(0, 1.0), (9, 2.0)])
def test_what_can_be_gained_is_in_the_flops(blocks: int, most: float) -> None:
    config = Config("deit_t", 64, batch_size=8, method="last(k=3)")
    assert prefix_cache._at_most(config, Fidelity(64, 100, None, 1), blocks) == pytest.approx(most, rel=0.03)
