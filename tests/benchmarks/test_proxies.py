"""The benchmark of proxies: what it trains, and its sums on trainings whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import proxies
from benchmarks.proxies import BLOCKS, DROPS, EPOCHS, LEAST, PROXIES, Proxy, configuration, held, judged
from bsr_explorer.prediction import tokens_by_block
from bsr_explorer.report import style

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


def rows(proxy: Proxy, accuracy: Callable[[int], float]) -> list[dict[str, str]]:
    """One training of each configuration, with the same accuracy after each epoch."""
    places = [(blocks, drops) for drops in DROPS for blocks in BLOCKS]
    return [
        {
            "proxy": str(proxy),
            "blocks": blocks,
            "drops": drops,
            "seed": "0",
            "status": "finished",
            "history": " ".join([f"{accuracy(n):.4f}"] * EPOCHS),
            "seconds": "6.0",
            "torch": "2",
        }
        for n, (blocks, drops) in enumerate(places)
    ]


def test_there_are_24_configurations_and_names_are_unique() -> None:
    methods = {str(configuration(blocks, drops, PROXIES[0]).how) for blocks in BLOCKS for drops in DROPS}
    assert len(methods) == 24
    assert len(set(map(str, PROXIES))) == len(PROXIES)


@given(
    st.dictionaries(st.integers(0, 11), st.floats(0.1, 1.0), max_size=4),
    st.integers(4, 400),
    st.integers(4, 400),
)
def test_held_drops_leave_the_tokens_of_the_target(keep: dict[int, float], target: int, tokens: int) -> None:
    left, wanted = tokens, target
    found = held(keep, target, tokens)
    for block, rate in sorted(keep.items()):
        wanted = round(wanted * rate)
        left = round(left * found.get(block, 1.0))
        assert abs(left - min(tokens, wanted, left)) <= 1
    assert abs(left - min(tokens, wanted)) <= 1 or not keep


def test_tokens_that_remain_are_those_of_the_target_in_a_real_model() -> None:
    whole = tokens_by_block(configuration("late", "paper", Proxy(224, 128)))[11][1]
    small = tokens_by_block(configuration("late", "paper", Proxy(112, 128, held=True)))[11][1]
    assert abs(whole - small) <= 1
    assert (
        configuration("late", "paper", Proxy(64, 128, held=True)).how
        == configuration("late", "none", Proxy(64, 128)).how
    )  # 16 tokens are fewer than the target has left


def test_the_reference_is_the_highest_fidelity_of_enough_configurations() -> None:
    best, other = Proxy(224, 256), Proxy(64, 512)
    known = [
        *rows(best, lambda n: n / 100)[:9],
        *rows(other, lambda n: 1 - n / 100),
        *rows(Proxy(224, 512), float)[: LEAST - 1],
        *rows(Proxy(112, 512), float)[9:],  # none of those of the reference
    ]
    answer = judged(known)
    assert answer["reference"] == f"{best}, {EPOCHS} epochs"
    lines = {(each["proxy"], each["epoch"]): each for each in answer["proxies"]}
    assert lines[str(other), EPOCHS]["spearman"] == pytest.approx(-1)
    assert {proxy for proxy, _ in lines} == {str(other)}
    assert lines[str(other), 1]["seconds"] == pytest.approx(2.0)
    assert lines[str(other), 1]["configurations"] == 9


def test_the_last_epoch_is_all_that_is_looked_at_of_the_target() -> None:
    at_target = [
        {**row, "history": row["history"].split()[-1]} for row in rows(Proxy(224, 128), lambda n: n / 100)
    ]
    answer = judged([*at_target, *rows(Proxy(224, 256), lambda n: n / 100)])
    (line,) = answer["proxies"]
    assert (line["proxy"], line["epoch"], line["spearman"]) == (
        str(Proxy(224, 128)),
        EPOCHS,
        pytest.approx(1),
    )


def test_some_configurations_are_trained_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Any, bool]] = []

    def quick(config: Any, *, every_epoch: bool, **how: Any) -> Any:
        trained.append((config.how, every_epoch))
        return SimpleNamespace(
            config={"method": ""}, status="finished", accuracy=0.5, history=[0.5], seconds=1.0, provenance={}
        )

    monkeypatch.setattr(proxies, "fine_tune", quick)
    some = ["--blocks", "late", "--drops", "none", "--drops", "mild", "--only", "224x128", "--minutes", "1"]
    monkeypatch.setattr("sys.argv", ["proxies.py", "--out", str(tmp_path), *some])
    proxies.main()
    wanted = [configuration("late", drops, Proxy(224, 128)).how for drops in ("none", "mild")]
    assert [how for how, _ in trained[:2]] == wanted
    assert not any(looks for _, looks in trained)


def test_a_bias_is_what_drops_lose_beyond_what_they_lose_at_the_target() -> None:
    free = len(BLOCKS)  # the first rows drop nothing
    known = [
        *rows(Proxy(224, 128), lambda n: 0.8 + n / 1000),
        *rows(Proxy(64, 128), lambda n: 0.8 + n / 1000 - (0.1 if n >= free else 0)),
    ]
    (line,) = [
        each for each in judged(known)["proxies"] if (each["proxy"][-5:], each["epoch"]) == ("64 px", 3)
    ]
    assert line["bias"] == pytest.approx(-10)


def test_nothing_is_said_of_nothing(tmp_path: Path) -> None:
    assert judged([]) == {"reference": None, "proxies": []}
    assert proxies.page(judged([])).startswith("# Proxies of the target")


def test_a_torn_line_is_trained_again_and_the_time_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def quick(config: Any, **how: Any) -> Any:
        trained.append(str(config.how))
        return SimpleNamespace(
            config={"method": str(config.how)},
            status="finished",
            accuracy=0.5,
            history=[0.3, 0.4, 0.5 + len(trained) / 100],
            seconds=1.0,
            provenance={"torch": "2"},
        )

    monkeypatch.setattr(proxies, "fine_tune", quick)
    monkeypatch.setattr(style, "UNDATED", {"png": style.UNDATED["png"]})
    words = ["proxies.py", "--out", str(tmp_path), "--only", "64x128", "--json"]
    monkeypatch.setattr("sys.argv", [*words, "--minutes", "1"])
    proxies.main()
    assert len(trained) == 24
    file = tmp_path / "proxies.csv"
    whole = file.read_text()
    file.write_text(whole[: whole.rindex("\n", 0, -1) + 12])
    capsys.readouterr()
    proxies.main()
    assert len(trained) == 25
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["reference"] == "128 images at 64 px, 3 epochs"
    assert {path.name for path in tmp_path.iterdir()} >= {"proxies.csv", "proxies.md", "proxies.png"}
