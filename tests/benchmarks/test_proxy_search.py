"""The benchmark of searches over several fidelities: what is counted, and that it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import proxy_search
from benchmarks.proxy_search import Piece, at, reached

CURVES = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 1)), min_size=1, max_size=8).map(
    lambda steps: [(sum(s for s, _ in steps[: n + 1]), v) for n, (_, v) in enumerate(steps)]
)


@given(CURVES, st.floats(0, 1))
def test_a_level_is_reached_when_it_is_never_left_again(
    curve: list[tuple[float, float]], level: float
) -> None:
    seconds = reached(curve, level)
    assert all(share >= level for spent, share in curve if spent >= seconds)
    before = [share for spent, share in curve if spent < seconds]
    assert not before or before[-1] < level


@given(CURVES)
def test_the_share_is_that_of_the_last_training(curve: list[tuple[float, float]]) -> None:
    assert at(curve, 0.0) == 0
    for spent, share in curve:
        assert at(curve, spent) == share


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """12 configurations at a target and a proxy."""
    lines = ["proxy,blocks,drops,seed,method,status,history,seconds,torch"]
    for place in range(12):
        method = f"last(k={place + 1})"
        for proxy, seconds in (("256 images at 224 px", 100), ("256 images at 112 px", 20)):
            accuracy = 0.5 + 0.03 * place - 0.1 * (seconds == 20)
            lines.append(f"{proxy},b{place},none,0,{method},finished,{accuracy:.4f},{seconds},2")
    path = tmp_path / "proxies.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.thorough
def test_every_strategy_on_a_table(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--table", table, "--seeds", 1, "--trainings", 3, "--samplers", "exact,random", "--json"]
    monkeypatch.setattr(sys, "argv", ["proxy_search.py", *map(str, words)])
    proxy_search.main()
    answer = json.loads(capsys.readouterr().out)
    for lines in answer.values():
        assert lines["configurations"] == 12
        names = ["multi", "exact", "random", *(f"{s} at 256 images at 112 px" for s in ("exact", "random"))]
        assert list(lines["strategies"]) == names
        for line in lines["strategies"].values():
            assert all(0 <= mean <= 1 + 1e-9 for mean, _ in line["shares"])


@pytest.mark.thorough
def test_what_is_handed_over_is_of_the_target(table: Path) -> None:
    piece = Piece((table, "256 images at 224 px", ("256 images at 112 px",)), 0.98, "exact", None, 0)
    curve = piece(350.0)
    steps = [b[0] - a[0] for a, b in zip([(0.0, 0.0), *curve], curve, strict=False)]
    assert {round(step) for step in steps} == {20, 100}
    assert [v for _, v in curve] == sorted(v for _, v in curve)  # without noise, more is never worse
