"""What a search says before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli import search_said as said
from bsr_explorer.cli.console import parse_seconds
from bsr_explorer.config import Fidelity
from bsr_explorer.search.plan import Plan, Settled
from bsr_explorer.search.space import Space
from bsr_explorer.search.speed import Speed
from bsr_explorer.store.study import Study
from tests.cli.test_search import FLAGS

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]
MakeStudy = Callable[..., Study]

NAME = "toy-digits-1400KB"


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_trains_and_writes_nothing(quick: Cli, tmp_path: Path) -> None:
    done = quick(*FLAGS, "--dry-run")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert {"configurations 851", "budget 1400KB = 1.4 MB (1.3 MiB)"} <= set(lines)
    plan = "plan 12 configurations, 20 training images, 1 epoch, 32 px (one trial: ± 8.9 points), about "
    assert any(line.startswith(plan) for line in lines)
    assert "does not fit" in next(line for line in done.out.splitlines() if line.startswith("full"))
    assert "fits" in next(line for line in done.out.splitlines() if line.startswith("linear"))
    assert "Nothing was trained or written" in done.out


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_in_json_says_the_same(quick: Cli, tmp_path: Path, make_study: MakeStudy) -> None:
    done = quick(*FLAGS, "--dry-run", "--json")
    assert (done.code, list(tmp_path.iterdir())) == (0, [])
    answer, space = json.loads(done.out), Space(make_study())
    assert (answer["configurations"], answer["fitting"]) == (len(space), space.fitting)
    assert (answer["least_bytes"], answer["most_bytes"]) == space.range_bytes
    assert answer["budget_bytes"] == 1_400_000
    assert answer["expected_seconds"] > 0
    assert answer["folder"] == f"reports/{NAME}"
    assert answer["study"]["fidelity"] == make_study().to_toml()["fidelity"]


# --- the plan in words ----------------------------------------------------------------------------------

LESS = Plan(Fidelity(224, 128, 200, 3), 8, 0, 400.0)
MORE = Plan(Fidelity(224, 512, 500, 3), 16, 3, 5000.0)


@pytest.fixture
def settled(make_study: MakeStudy) -> Settled:
    return Settled(replace(make_study(), time_limit=480.0), Speed(1e9, 1e9), LESS, (1920.0, MORE))


def test_the_plan_is_said_in_words_with_what_more_time_would_buy(settled: Settled) -> None:
    assert said.planned(settled, 1).splitlines() == [
        "plan: 8 configurations, 128 training images, 3 epochs, 224 px (one trial: ± 2.8 points), about 6 min 40 s",
        "  with --time-limit 32m: 16 configurations, the front again on 3 fresh seeds, 512 training images, 3 epochs, "
        "224 px (one trial: ± 1.8 points)",
    ]
    assert len(said.planned(replace(settled, more=None), 1).splitlines()) == 1


def test_a_time_limit_that_is_too_short_is_said(settled: Settled) -> None:
    slow = replace(settled, plan=replace(LESS, seconds=960.0))
    assert "the time limit of 8 min 00 s has room for about 4 of them" in said.planned(slow, 1)
    assert "has room" not in said.planned(slow, 2)  # two at once


@pytest.mark.parametrize(("seconds", "text"), [(1920.0, "32m"), (90.0, "90s"), (7200.0, "120m")])
def test_a_limit_is_said_as_the_flag_takes_it(seconds: float, text: str) -> None:
    assert said.format_limit(seconds) == text
    assert parse_seconds(text) == seconds
