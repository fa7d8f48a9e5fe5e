"""Files that describe a model, and functions by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.traced.architecture import TracedGeometry
from bsr_explorer.models.traced.described import Described, build_by, described, function, is_described

SMALL = "tests.models.traced.small"


@pytest.mark.parametrize(
    ("model", "is_own"),
    [
        ("package.module:build", True),
        ("mine.toml", True),
        ("deit_s", False),
        ("hf-hub:timm/resnet18", False),
        ("hf_hub:timm/resnet18", False),
    ],
)
def test_functions_and_files_are_told_from_names(model: str, is_own: bool) -> None:
    assert is_described(model) is is_own


def test_a_file_says_what_structure_would() -> None:
    assert described("a.b:c") == Described("a.b:c")


def test_a_file_corrects_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'model = "{SMALL}:build"\nblocks = ["blocks.*.conv1"]\nhead = ["norm", "head"]\nfinal_norm = []\n'
    )
    found = geometry(str(file), 16)
    assert isinstance(found, TracedGeometry)
    assert found.naming.paths == ("blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1")
    assert found.naming.head == ("norm.", "head.") and found.naming.final_norm == ()


def test_a_file_may_name_a_model_of_timm(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('model = "resnet18"\nblocks = ["layer4.*"]\n')
    assert geometry(str(file), 32).depth == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model = ", "not valid TOML"),
        ("blocks = []", "does not say which"),
        ('modle = "a:b"', "unknown value 'modle' .did you mean 'model'"),
        ('model = "a:b"\nblocks = "blocks.*"', "must be a list of module paths"),
        (f'model = "{SMALL}:build"\nblocks = ["blcks.*"]', "no module 'blcks"),
        (f'model = "{SMALL}:build"\nblocks = ["drop"]\nhead = ["no"]', "no module 'no'"),
        (f'model = "{SMALL}:build"\nloss = "{SMALL}:no_scalar"', "a tensor of one number is needed"),
        (f'model = "{SMALL}:build"\nloss = "{SMALL}:no_losses"', "loss: the module .* has no 'no_losses'"),
    ],
)
def test_a_bad_file_is_one_line(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=why) as error:
        geometry(str(file), 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_package:build", "cannot be imported: No module named"),
        (f"{SMALL}:biuld", "has no 'biuld'; nearest are build"),
        (f"{SMALL}:torch", "is no function, but a module"),
        (f"{SMALL}:nothing", "returns a str"),
        (f"{SMALL}:failing", r"failing\(image_size=16\) fails: no model for 16 pixels"),
    ],
)
def test_a_function_that_builds_nothing_is_one_line(name: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        build_by(name, 16, 10)


def test_a_function_is_given_what_it_takes() -> None:
    assert build_by(f"{SMALL}:build", 16, 7).head.out_features == 7  # type: ignore[union-attr]
    assert function(f"{SMALL}:own_loss").__name__ == "own_loss"
