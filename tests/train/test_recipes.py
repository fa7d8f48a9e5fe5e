"""The presets: which exist, what they refuse, and what they prescribe by dataset and batch size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.errors import UserError
from bsr_explorer.train.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_is_found_by_its_name_and_counted_for(name: str) -> None:
    chosen = recipe(name)
    assert chosen.name == name
    assert chosen.source
    assert chosen.optimizer in OPTIMIZERS
    assert recipe(name, "digits", chosen.optimizer) == recipe(name, "digits")


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        recipe("shrot")
    assert str(error.value).startswith("--recipe: unknown value 'shrot' (did you mean 'short'?)")


@pytest.mark.parametrize(("name", "optimizer"), [("short", "sgd"), ("paper-vit-b", "adamw")])
def test_an_optimiser_that_memory_is_not_counted_for_is_refused(name: str, optimizer: str) -> None:
    with pytest.raises(UserError, match=f"--optimizer: '{optimizer}' does not go with --recipe {name}"):
        recipe(name, "digits", optimizer)


def test_an_8_bit_optimiser_goes_with_the_recipes_of_its_kin() -> None:
    assert recipe("short", "digits", "adamw_8bit") == recipe("short", "digits", "adamw")
    with pytest.raises(
        UserError, match="'adamw_8bit' does not go with --recipe paper-vit-b, which uses 'sgd_m"
    ):
        recipe("paper-vit-b", "cifar10", "adamw_8bit")


@pytest.mark.parametrize(
    ("data", "lr", "steps"),
    [
        ("cifar10", 1e-3, 20_000),
        ("cifar100", 1e-2, 20_000),
        ("flowers102", 3e-2, 20_000),
        ("pets", 1e-3, 20_000),
        ("food101", 1e-2, 30_000),
        ("some/folder", 1e-3, 20_000),
    ],
)
def test_the_paper_has_a_rate_for_each_dataset(data: str, lr: float, steps: int) -> None:
    chosen = recipe("paper-vit-b", data)
    assert (chosen.lr, chosen.steps, chosen.warmup_steps, chosen.batch_size) == (lr, steps, 500, 128)


def test_other_presets_do_not_depend_on_the_dataset() -> None:
    assert recipe("short", "food101") == recipe("short", "digits") == RECIPES["short"]


def test_the_rate_scales_with_the_batch_where_the_recipe_says_so() -> None:
    scaled, fixed = recipe("paper-deit-s"), recipe("paper-vit-b", "cifar10")
    assert scaled.lr_for_batch(128) == pytest.approx(5e-4)
    assert scaled.lr_for_batch(256) == pytest.approx(1e-3)
    assert fixed.lr_for_batch(1) == fixed.lr_for_batch(512) == 1e-3


def test_recipes_are_plain_data() -> None:
    code = "import sys, bsr_explorer.train.recipes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
