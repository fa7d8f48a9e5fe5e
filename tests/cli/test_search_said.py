"""What a search says before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.search.space import Space
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
    assert "trials 12: 20 images, 1 epoch, 32 px" in lines
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
