"""What several commands share: what is left out follows the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("toy")

Cli = Callable[..., Any]

COMMANDS = {
    "profile": ["--batch-size", "2"],
    "max-batch": ["--budget", "100MB"],
    "compare": ["--dry-run", "--costs-only", "--batch-size", "2"],
}
MODELS = {
    "toy": (["--image-size", "48"], "4 blocks", "blocks=(0, 1, 3), keep={1: 0.5, 2: 0.5, 3: 0.5}"),
    "toy_2": (["--image-size", "48"], "2 blocks", "blocks=(0, 1), keep={0: 0.5, 1: 0.5}"),
    "vit_wee_patch16_reg1_gap_256": (
        ["--image-size", "64"],
        "14 blocks and no class token",
        "blocks=(3, 8, 13), keep={}",
    ),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_of_each_command_go_with_any_model(cli: Cli, command: str, model: str) -> None:
    flags, blocks, bsr = MODELS[model]
    done = cli(command, "--model", model, *flags, *COMMANDS[command])
    assert done.code == 0
    assert f"bsr follows the model, which has {blocks}: bsr({bsr}, fuse=True)" in done.err
    assert done.err.count("bsr follows the model") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_of_12_blocks_needs_no_word(cli: Cli, command: str) -> None:
    done = cli(command, "--model", "deit_t", "--image-size", "64", *COMMANDS[command])
    assert (done.code, done.err) == (0, "")


def test_what_is_said_stays(cli: Cli) -> None:
    done = cli("profile", "--model", "toy", "--image-size", "48", "--method", "bsr(blocks=(1,), keep={})")
    assert (done.code, done.err) == (0, "")
    assert "bsr(blocks=(1,), keep={}, fuse=True)" in done.out
