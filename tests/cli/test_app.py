"""The commands: each is explained, and what a user got wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bsr_explorer.cli import app as module
from bsr_explorer.errors import UserError
from tests.cli.test_main import COMMANDS

Cli = Callable[..., Any]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(cli: Cli, command: str) -> None:
    import typer

    module._register([])
    group = typer.main.get_command(module.app)
    for option in group.commands[command].params:  # type: ignore[attr-defined]
        assert getattr(option, "help", None), f"{command}: {option.name}"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["list"], "what"),
        (["search", "--no-such-flag"], "--no-such-flag"),
        (["search", "--trials", "abc"], "--trials"),
        (["search", "--batch-size", "1.5"], "--batch-size"),
        (["max-batch", "--micro-batches", "1.5"], "--micro-batches"),
        (["report"], "STUDY"),
        (["show", "reports"], "TRIAL"),
        (["train"], "CONFIG.toml"),
    ],
)
def test_a_usage_error_is_one_line_and_2(cli: Cli, arguments: list[str], word: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert word in done.err


def test_a_user_error_is_one_line_and_2(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsr_explorer.cli import listing

    def wrong() -> None:
        raise UserError("list: a value\n  that is wrong")

    monkeypatch.setattr(listing, "_models", wrong)
    done = cli("list", "models")
    assert (done.code, done.out, done.err) == (2, "", "error: list: a value that is wrong\n")
