"""``bsr-explore blocks``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bsr_explorer.models.architecture import geometry

Cli = Callable[..., Any]


def test_blocks_are_listed_with_a_file_to_correct_them(cli: Cli, tmp_path: Path) -> None:
    result = cli("blocks", "resnet18", "--image-size", "32")
    assert result.code == 0
    assert "layer4.1" in result.out and "resnet18: 8 blocks" in result.out
    file = tmp_path / "mine.toml"
    file.write_text(
        result.out.split("--model model.toml:")[1].replace(", \n", ", ").strip().replace(",\n", ",")
    )
    assert geometry(str(file), 32).depth == 8


def test_json_says_the_same(cli: Cli) -> None:
    said = json.loads(cli("blocks", "deit_t", "--json").out)
    assert len(said["blocks"]) == 12 and said["blocks"][3]["output"] == [197, 192]
    assert said["file"]["head"] == ["head"]


def test_a_model_of_ones_own_is_profiled_by_its_function(cli: Cli) -> None:
    result = cli(
        "profile", "--module", "tests.models.traced.small:build", "--image-size", "16", "--method", "linear"
    )
    assert result.code == 0 and "peak" in result.out


def test_module_and_model_are_one_too_many(cli: Cli) -> None:
    result = cli("profile", "--module", "a:b", "--model", "deit_s")
    assert result.code == 2 and "--module" in result.err
    assert cli("profile", "--module", "build").code == 2
