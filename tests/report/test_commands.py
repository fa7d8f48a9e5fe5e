"""What to type next about a trial: commands that say again what its record says."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from bsr_explorer.config import Config
from bsr_explorer.report.commands import commands_for, profile_words, train_command
from tests.report.points import record

CONFIG = Config(model="deit_t", image_size=64, batch_size=8, method="bsr(blocks=(3, 7))").to_dict()


def test_only_what_is_not_usual_is_said() -> None:
    usual = Config().to_dict()
    assert profile_words(usual) == [
        *("bsr-explore", "profile", "--model", usual["model"]),
        *("--batch-size", str(usual["batch_size"]), "--method", usual["method"]),
    ]
    words = profile_words({**usual, "image_size": 96, "set_to_none": False, "lr": 0.1})
    assert words[words.index("--image-size") + 1] == "96"
    assert "--keep-gradients" in words
    assert "--lr" not in words  # what a step holds does not depend on it


def test_a_method_is_one_word_of_a_shell() -> None:
    words = commands_for(Path("reports/a study"), 3, record(1, 0.5, config=CONFIG))
    assert shlex.split(words["its cost"]) == profile_words(CONFIG)
    assert shlex.split(words["train it again"]) == ["bsr-explore", "reproduce", "reports/a study", "3"]
    assert shlex.split(words["as a file"])[2:] == [
        *("reports/a study", "--select", "trial 3", "--out", "trial-3.toml")
    ]
    assert words["train it in full"] == train_command(Path("reports/a study"), "trial 3")


def test_nothing_is_selected_of_a_comparison() -> None:
    run = replace(record(1, 0.5, config=CONFIG), study={})
    assert set(commands_for(Path("compare-it"), 0, run)) == {"its cost", "train it again"}


def test_the_recommended_is_trained_where_nothing_else_is_said() -> None:
    assert train_command(Path("s")) == "bsr-explore train s --select recommended"


def test_tasks_are_said_as_the_flag_takes_them() -> None:
    words = profile_words(Config().with_classes((10, 4)).to_dict())
    assert words[words.index("--tasks") + 1] == "10,4"
    assert words[words.index("--num-classes") + 1] == "14"
