"""``bsr-explore ranks``: a table of ranks, and the expression that has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.methods import Asi, Wasi, parse_method
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.prediction import predict

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

FLAGS = ("--model", "toy", "--image-size", "48", "--weights", "random", "--batch-size", "4")


def test_the_expression_has_the_ranks_of_the_table_and_fits_the_budget(cli: Cli) -> None:
    done = cli("ranks", *FLAGS, "--method", "last(k=2)", "--budget", "20KB", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["budget_bytes"] == 20_000
    assert said["bytes"] == sum(layer["bytes"] for layer in said["layers"]) <= 20_000
    assert [(layer["block"], layer["layer"]) for layer in said["layers"]] == [
        (block, layer) for block in (2, 3) for layer in ("qkv", "fc2")
    ]
    asi = next(part for part in parts_of(parse_method(said["method"])) if isinstance(part, Asi))
    assert asi.ranks == {
        f"{layer['block']}.{layer['layer']}": tuple(layer["ranks"]) for layer in said["layers"]
    }
    config = Config("toy", 48, 10, 4, method=said["method"])
    assert predict(config).saved_bytes < predict(config.with_method("last(k=2)")).saved_bytes
    assert all(0.4 <= layer["explained"] <= 0.9 for layer in said["layers"])


def test_what_can_be_pasted_is_the_last_line(cli: Cli) -> None:
    done = cli("ranks", *FLAGS, "--method", "last(k=1)", "--on", "fc2", "--budget", "1MB")
    assert done.code == 0, done.err
    *_, last = done.out.strip().splitlines()
    expression = last.removeprefix('--method "').removesuffix('"')
    assert str(parse_method(expression)) == expression
    assert expression.startswith("last(k=1)+asi(on=('fc2',), ranks={'3.fc2': (")
    assert "90%" in done.out
    assert "saved for backward: " in done.out


def test_more_memory_buys_smaller_errors(cli: Cli) -> None:
    errors = []
    for budget in ("14KB", "30KB", "1MB"):
        done = cli("ranks", *FLAGS, "--method", "last(k=2)", "--budget", budget, "--json")
        assert done.code == 0, done.err
        errors.append(sum(layer["error"] for layer in json.loads(done.out)["layers"]))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


def test_by_what_is_explained_wasi_gets_ranks_of_weights_too(cli: Cli) -> None:
    found = []
    for share in ("0.5", "0.9"):
        done = cli("ranks", *FLAGS, "--method", "last(k=2)", "--of", "wasi", "--explained", share, "--json")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert (said["budget_bytes"], said["explained"]) == (None, float(share))
        wasi = next(part for part in parts_of(parse_method(said["method"])) if isinstance(part, Wasi))
        assert wasi.rank == {f"{layer['block']}.{layer['layer']}": layer["rank"] for layer in said["layers"]}
        assert wasi.ranks == {
            f"{layer['block']}.{layer['layer']}": tuple(layer["ranks"]) for layer in said["layers"]
        }
        assert list(wasi.rank) == ["2.fc1", "2.fc2", "3.fc1", "3.fc2"]
        predict(Config("toy", 48, 10, 4, method=said["method"]))
        found.append(wasi.rank)
    assert all(found[0][layer] < found[1][layer] for layer in found[0])


def test_by_what_is_explained_asi_has_no_limit(cli: Cli) -> None:
    done = cli("ranks", *FLAGS, "--method", "last(k=1)", "--explained", "0.7")
    assert done.code == 0, done.err
    assert "70%" in done.out
    assert "without asi" in done.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "linear"), "asi(ranks=(0.5, 0.125, 0.125)) has nothing to store"),
        (("--method", "full+mesa"), "both choose how linear layers store what they read"),
        (("--method", "full,last"), "is a list; ranks are chosen for one method"),
        (("--on", "key"), "unknown"),
        (("--budget", "1B"), "is less than the least that these layers hold"),
        (("--budget", "much"), "--budget: cannot read 'much'"),
        (("--batch-size", "99999"), "--batch-size: 99999 is more than the"),
        (("--data", "nowhere"), "nowhere"),
        (("--of", "lora"), "--of"),
        (("--of", "wasi", "--budget", "1MB"), "ranks of weights cannot be chosen by 1MB of inputs"),
        (("--budget", "1MB", "--explained", "0.5"), "--explained: there is a --budget, too"),
        (("--explained", "1.5"), "--explained: 1.5 must be above 0 and at most 1"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, more: tuple[str, ...], said: str) -> None:
    done = cli("ranks", *FLAGS, *more)
    assert done.code == 2
    assert said in done.err
    assert [line.startswith("error: ") for line in done.err.splitlines()].count(True) == 1
    assert "Traceback" not in done.err
