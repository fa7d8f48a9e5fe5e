"""The reference of the commands."""

from __future__ import annotations

import re

import typer.main

from bsr_explorer.cli import app
from docs.hooks import commands


def test_every_command_stands_there_with_all_its_flags() -> None:
    reference = commands.reference()
    named = re.findall(r"^## (\S+)$", reference, re.MULTILINE)
    assert named == list(typer.main.get_command(app.app).commands) and len(named) >= 14
    profile = reference.split("## profile")[1].split("\n## ")[0]
    assert "bsr-explore profile [OPTIONS]" in profile
    assert "| `--measure` |" in profile
    assert "Default: `deit_s`." in profile
    assert "bsr-explore profile --model deit_s --method bsr" in profile


def test_a_bar_stays_in_its_cell() -> None:
    assert "| `--cache SIZE\\|none` |" in commands.reference()
