"""Parts of a profile on the terminal: its fullest moment, and its blocks."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from bsr_explorer.cli.profile_shown import show_blocks, show_peak, show_steps, show_unknown
from bsr_explorer.config import Config
from bsr_explorer.ledger import NAMES, Unknown
from bsr_explorer.prediction import predict, spread
from bsr_explorer.units import format_mb

CONFIG = Config("deit_t", 48, batch_size=2, method="bsr(blocks=(1, 3), keep={2: 0.5})")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", ["full", "linear"])
def test_what_is_alive_at_the_peak_is_said_with_the_most_first(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.with_method(method)
    peak = predict(config).peak
    assert peak is not None
    show_peak(config, predict(config))
    shown = said(capsys)
    sizes = sorted(peak.alive.items(), key=lambda item: -item[1])
    assert shown.endswith("in MB: " + ", ".join(f"{NAMES[kind]} {format_mb(size)}" for kind, size in sizes))
    assert ("in the optimiser's step" in shown) == (peak.phase == "optimizer")


def test_of_a_device_other_than_the_cpu_it_is_said_what_was_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for device in ("cpu", "cuda"):
        config = Config("deit_t", 48, batch_size=2, device=device)
        show_peak(config, predict(config))
        assert ("predictions for cuda (H100) are compared with" in said(capsys)) == (device == "cuda")


def test_blocks_say_their_tokens_and_whether_they_train(capsys: pytest.CaptureFixture[str]) -> None:
    show_blocks(CONFIG, predict(CONFIG))
    rows = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()
    }
    assert {name for name in rows if name.isdigit()} == set(map(str, range(12)))
    assert {name for name, row in rows.items() if name.isdigit() and "trains" in row} == {"1", "3"}
    tokens = [rows[str(block)][0] for block in range(4)]
    before, after = tokens[2].split("→")
    assert tokens == [before, before, f"{before}→{after}", after]
    assert int(after) < int(before) == 10


def test_where_steps_differ_the_least_the_mean_and_the_most_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    differ = spread(CONFIG.with_method("gradual(k=2)"))
    assert differ is not None
    held = predict(CONFIG.with_method("gradual(k=2)"))
    show_steps(held, asdict(differ), [])
    shown = said(capsys)
    assert "steps differ least mean most" in shown and "one phase after another" in shown
    assert " ".join(format_mb(value, 1) for value in differ.saved_bytes) in shown
    assert "measured" not in shown
    same, other = ({"predicted": 1, "measured": measured} for measured in (1, 2))
    show_steps(held, asdict(differ), [same, other])
    assert "2 kinds of step were measured: 1 not as predicted" in said(capsys)


def test_bounds_have_a_mark_and_what_is_unknown_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = Unknown("lstm", "rnn", 2, 7, ("train_flops",), "nobody counts it")
    held = replace(predict(CONFIG), unknown=(unknown,))
    show_unknown(held)
    assert said(capsys).startswith("lstm (2 calls, the first in rnn; up to 7 bytes")
    show_blocks(CONFIG, held)
    assert "≥ train GFLOPs" in (shown := said(capsys)) and "≥ saved" not in shown
