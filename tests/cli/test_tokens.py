"""``bsr-explore tokens``: which patches live on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bsr_explorer.store.records import read_records

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

FLAGS = ("--model", "toy", "--image-size", "48", "--weights", "random", "--images", "2")


def test_a_strip_of_a_method(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "strip.png"
    done = cli(
        "tokens",
        *FLAGS,
        "--method",
        "drop({0: 0.5, 2: 0.5}, fuse=False)",
        "--control",
        "--out",
        file,
        "--json",
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["file"] == str(file)
    assert len(said["classes"]) == 2
    blocks = [(0, "the class token's attention", 5), (2, "the class token's attention", 3)]
    chance = [(block, "chance", left) for block, _, left in blocks]
    assert said["rows"] == [
        [f"block {at}", f"by {by}", f"{left} of 9"] for at, by, left in (*blocks, *chance)
    ]
    with Image.open(file) as image:
        assert image.format == "PNG"


def test_a_file_is_named_and_its_ending_decides(cli: Cli, tmp_path: Path) -> None:
    done = cli("tokens", *FLAGS, "--method", "full+tome(r=2)", "--out", tmp_path / "merged.svg")
    assert (done.code, done.out) == (0, f"\nWritten:\n  {tmp_path / 'merged.svg'}\n")
    assert (tmp_path / "merged.svg").read_text().startswith("<?xml")


def test_of_a_training_the_trained_model_is_shown(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[config]\nmodel = "toy"\nimage_size = 48\nbatch_size = 8\nmethod = "full+drop({3: 0.5})"\n'
        '[data]\nname = "digits"\nweights = "random"\n[fidelity]\nepochs = 3\ntrain_size = 32\nval_size = 32\n'
    )
    run = tmp_path / "run"
    assert cli("train", config, "--out", run).code == 0
    of_config, of_run = (
        cli("tokens", what, "--images", "6", "--out", tmp_path / f"{what.stem}.png", "--json")
        for what in (config, run)
    )
    assert of_run.code == of_config.code == 0, of_run.err
    assert json.loads(of_run.out)["classes"] == json.loads(of_config.out)["classes"]
    assert (tmp_path / "run.png").read_bytes() != (tmp_path / "config.png").read_bytes()
    both = cli("tokens", run, "--accuracy", "--out", tmp_path / "both.png", "--json")
    accuracies = json.loads(both.out)["accuracies"]
    assert accuracies["as_it_is"] == read_records(run)[0].accuracy
    assert 0 <= accuracies["all_tokens"] <= 1
    said = cli("tokens", run, "--accuracy", "--out", tmp_path / "both.png").out
    assert f"accuracy on validation, all tokens: {100 * accuracies['all_tokens']:.1f}%" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "full"), "--method: full drops and merges no tokens at 48 px"),
        (("--method", "drop({0: 0.5}),bsr"), "is a list; a strip shows one method"),
        (("--method", "tome(r=9)"), "would leave none of the 9 patch tokens"),
        (("--method", "tome(r=1)", "--control"), "--control: tome(r=1) drops no tokens"),
        (
            ("--method", "drop({0: 0.5}, criterion='colour')"),
            "tokens can be dropped by class_attention, attention",
        ),
        (("--method", "drop({0: 0.5})", "--accuracy"), "--accuracy: nothing is trained yet"),
        (("--images", "99"), "--images: 99 is out of range; choose from 1 to 12"),
        (("--out", "strip.jpg"), "--out: unknown value 'jpg'"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, more: tuple[str, ...], said: str) -> None:
    done = cli("tokens", *FLAGS, *more)
    assert done.code == 2
    assert said in done.err
    assert [line.startswith("error: ") for line in done.err.splitlines()].count(True) == 1
    assert "Traceback" not in done.err


def test_flags_beside_a_file_are_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("tokens", tmp_path / "config.toml", "--method", "bsr")
    assert (done.code, "--method: cannot be given beside a file" in done.err) == (2, True)
