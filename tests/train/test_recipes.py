"""The presets: which exist, what they refuse, and what they prescribe by dataset and batch size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.errors import UserError
from bsr_explorer.train.recipes import HALF, IMAGENET, RECIPES, recipe


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


AUTHORS = {
    "paper-vit-b": {
        "optimizer": "sgd_momentum",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 128,
        "clip": 1.0,
        "warmup_steps": 500,
        "augment": "crop",
        "crop_scale": (0.05, 1.0),
        "mean_std": HALF,
        "interpolation": "bilinear",
        "squash": True,
        "tag": "orig_in21k",
        "head_std": 0.0,
        "partial_batch": True,
        "layer_decay": 1.0,
        "label_smoothing": 0.0,
        "evaluate_every": 1000,
        "data": ("cifar10", "cifar100", "flowers102", "pets", "food101"),
    },
    "paper-deit-s": {
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "epochs": 50,
        "batch_size": 128,
        "clip": None,
        "warmup_fraction": 5 / 50,
        "augment": "crop_flip",
        "crop_scale": (0.08, 1.0),
        "mean_std": IMAGENET,
        "interpolation": "bilinear",
        "squash": False,
        "tag": "fb_in1k",
        "head_std": 2e-5,
        "partial_batch": False,
        "layer_decay": 0.75,
        "label_smoothing": 0.1,
        "evaluate_every": 1,
        "data": ("cifar10",),
    },
}
"""What stands in the authors' code."""


@pytest.mark.parametrize("name", AUTHORS)
def test_a_paper_recipe_is_the_authors(name: str) -> None:
    settings = asdict(recipe(name, "cifar10"))
    assert {key: settings[key] for key in AUTHORS[name]} == AUTHORS[name]
    assert settings["source"].startswith("authors' code of BSR")


@pytest.mark.parametrize("name", ["short", "standard"])
def test_our_recipes_start_and_end_as_before(name: str) -> None:
    ours = RECIPES[name]
    assert (ours.interpolation, ours.squash, ours.tag, ours.head_std) == ("bicubic", False, None, None)
    assert (ours.partial_batch, ours.counted_from, ours.least_rate, ours.data) == (False, None, 0.0, ())


@pytest.mark.parametrize(
    ("name", "data", "theirs"),
    [
        ("paper-deit-s", "cifar10", True),
        ("paper-deit-s", "cifar100", False),
        ("paper-deit-s", "pets", False),
        ("paper-vit-b", "food101", True),
        ("paper-vit-b", "digits", False),
        ("paper-vit-b", "some/folder", False),
    ],
)
def test_what_the_authors_have_no_code_for_is_not_called_theirs(name: str, data: str, theirs: bool) -> None:
    source = recipe(name, data).source
    assert source.startswith("authors' code of BSR") == theirs
    assert ("not theirs on this data: they have it for cifar10" in source) == (not theirs)


@pytest.mark.parametrize(
    ("partial", "images", "steps"),
    [
        (False, 50_000, 390),
        (True, 50_000, 391),
        (True, 1024, 8),
        (False, 1024, 8),
        (False, 100, 1),
        (True, 100, 1),
    ],
)
def test_a_last_batch_that_is_not_full_is_a_step_or_none(partial: bool, images: int, steps: int) -> None:
    rules = replace(RECIPES["paper-vit-b"], partial_batch=partial)
    assert rules.steps_an_epoch(images, 128) == steps


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
