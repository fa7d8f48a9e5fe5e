"""The commands that continue from a trial: its cost, its training, its file."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsr_explorer.config import Config
from bsr_explorer.store.records import Record


def commands_for(folder: Path, trial: int, record: Record) -> dict[str, str]:
    """Command lines about one trial, by what they do.

    Args:
        folder: of its study or comparison, as it is to be typed.
    """
    name, words = str(folder), f"trial {trial}"
    export = ["bsr-explore", "export", name, "--select", words, "--out", f"trial-{trial}.toml"]
    of_study = {"train it in full": train_command(folder, words), "as a file": shlex.join(export)}
    return {
        "its cost": shlex.join(profile_words(record.config)),
        "train it again": shlex.join(["bsr-explore", "reproduce", name, str(trial)]),
        **(of_study if record.study else {}),  # of a comparison, nothing is selected
    }


def train_command(folder: Path, words: str = "recommended") -> str:
    """What comes next wherever a configuration was chosen: its training in full.

    Args:
        words: that name it; see ``select``.
    """
    return shlex.join(["bsr-explore", "train", str(folder), "--select", words])


def profile_words(config: dict[str, Any]) -> list[str]:
    """The words of the command that says what a configuration costs."""
    usual = {**asdict(Config()), "model": None, "method": None, "batch_size": None}  # these are always said
    words = ["bsr-explore", "profile"]
    for key, value in config.items():
        if key == "set_to_none":
            words += [] if value else ["--keep-gradients"]
        elif key == "tasks":
            words += ["--tasks", ",".join(map(str, value))] if value else []
        elif key != "lr" and value != usual.get(key):  # a rate is of no account to what a step holds
            words += [f"--{key.replace('_', '-')}", str(value)]
    return words
