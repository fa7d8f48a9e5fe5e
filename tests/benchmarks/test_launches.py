"""Launches of a step's packing, counted: by kernels of our own they are few."""

from __future__ import annotations

import json

import pytest

from benchmarks import launches
from bsr_explorer import Config
from tests.storages.interpreting import needs_triton

pytestmark = needs_triton


@pytest.mark.parametrize(("method", "packed"), [("mesa", 108), ("backrazor", 108)])
def test_a_whole_steps_packing_is_few_launches(method: str, packed: int) -> None:
    """Of DeiT-S's 12 blocks, whatever the images: 540 of Mesa and 324 of Back Razor. By torch's operations, it is 4,212
    of Mesa and 17,321 of Back Razor, and more where a batch is packed in parts."""
    counts = launches.count(Config("deit_s", 32, batch_size=2, method=method, device="cpu"), fuses=True)
    assert (counts.packed, counts.unpacked) == (packed, packed)
    assert counts.launches.total() <= 2500
    sparse = packed - 12  # GELU's input is kept dense
    each = {
        "mesa": {
            "our settle": packed,
            "our pack_numbers": packed,
            "our unpack_numbers": packed,
            "randint": packed,
        },
        "backrazor": {"our thresholds": sparse, "our compact": sparse, "our expand": sparse},
    }[method]
    assert {name: counts.launches[name] for name in each} == each


def test_torchs_operations_are_counted_as_they_are_dispatched() -> None:
    config = Config("deit_t", 32, batch_size=2, method="backrazor", device="cpu")
    theirs, ours = (launches.count(config, fuses) for fuses in (False, True))
    assert theirs.packed == ours.packed == theirs.unpacked
    assert not any(name.startswith("our ") for name in theirs.launches)
    assert theirs.launches["ge"] >= 31 * 96  # of each sparse tensor, every bit of its threshold
    assert theirs.launches.total() > 20 * ours.launches.total()


@pytest.mark.thorough
def test_it_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "deit_t", "--image-size", "32", "--methods", "mesa"]
    monkeypatch.setattr("sys.argv", ["launches.py", *words, "--json"])
    launches.main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["fused"] < row["torch"]
    monkeypatch.setattr("sys.argv", ["launches.py", *words])
    launches.main()
    assert f"| {row['torch']:,} | {row['fused']:,} |" in capsys.readouterr().out
