"""A recipe's optimiser: its rates over the steps, and its groups of parameters."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.train.loop import fit
from bsr_explorer.train.optimizer import make_optimizer, rate_factor, set_rates
from bsr_explorer.train.recipes import RECIPES, Recipe
from bsr_explorer.train.step import Step
from tests.train.line import PLAIN, Line, batches


def test_the_rate_warms_up_in_equal_steps_and_falls_as_a_cosine() -> None:
    recipe = replace(PLAIN, warmup_steps=4)
    rates = [rate_factor(step, 14, recipe) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert rates[9] == pytest.approx(0.5)
    assert rates[-1] < 0.03


def test_the_rates_of_paper_vit_b_are_the_authors() -> None:
    """``LambdaLR`` is stepped before the optimiser is, in ``train.py``; the rule is that of ``util/scheduler.py``."""
    rules, total, warmup = RECIPES["paper-vit-b"], 2000, 500

    def theirs(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, 0.5 * (1 + math.cos(math.pi * 0.5 * 2 * (step - warmup) / (total - warmup))))

    optimizer = torch.optim.SGD(Line().parameters(), lr=rules.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, theirs)
    for step in range(total):
        optimizer.step()
        scheduler.step()
        assert rules.lr * rate_factor(step, total, rules) == pytest.approx(
            scheduler.get_last_lr()[0], abs=1e-18
        )
    assert rate_factor(0, total, rules) == 1 / 500
    assert rate_factor(499, total, rules) == 1.0
    assert rate_factor(1999, total, rules) == 0.0


def test_the_rates_of_paper_deit_s_are_the_authors() -> None:
    """``adjust_learning_rate`` of MAE, which ``engine_finetune.py`` calls with the epochs that are done."""
    rules, steps = RECIPES["paper-deit-s"], 390
    rate, total = rules.lr_for_batch(128), 50 * steps
    for step in range(total):
        epoch = step / steps
        theirs = rate * epoch / 5
        if epoch >= 5:
            theirs = 1e-6 + (rate - 1e-6) * 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 45))
        assert rate * rate_factor(step, total, rules) == pytest.approx(theirs, rel=1e-9, abs=1e-18)
    assert rate_factor(0, total, rules) == 0.0
    assert rate * rate_factor(total - 1, total, rules) == pytest.approx(1e-6, rel=1e-2)


def test_warm_up_is_a_share_of_all_steps_where_its_steps_are_not_said() -> None:
    recipe = replace(PLAIN, warmup_steps=None, warmup_fraction=0.25)
    rates = [rate_factor(step, 20, recipe) for step in range(20)]
    assert rates.index(max(rates)) == 5


@given(st.integers(1, 200), st.none() | st.integers(0, 300), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_once_and_stays_positive(
    total: int, warmup: int | None, fraction: float
) -> None:
    recipe = replace(PLAIN, warmup_steps=warmup, warmup_fraction=fraction)
    rates = [rate_factor(step, total, recipe) for step in range(total)]
    peak = rates.index(max(rates))
    assert rates[peak] == 1.0
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def groups(method: str, recipe: Recipe, batch_size: int = 4) -> dict[str, dict[str, float]]:
    """Rate and weight decay by the name of each parameter that the optimiser of a toy model holds."""
    model = build(Config(model="toy", image_size=32, method=method))
    optimizer = make_optimizer(model, recipe, batch_size)
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert {name for name, p in named.items() if p.requires_grad} == {
        name for name, p in named.items() if id(p) in settings
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(settings)
    return {name: settings[id(p)] for name, p in named.items() if id(p) in settings}


def rates(held: dict[str, dict[str, float]], names: Iterable[str]) -> list[float]:
    return [held[name]["lr"] for name in names]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "method",
    ["full", "linear", "bitfit", "last(k=2)", "bsr(blocks=(0, 2), keep={})", "bsr(blocks=(), keep={})"],
)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_optimiser_holds_what_trains_and_nothing_else(method: str, recipe: Recipe) -> None:
    assert groups(method, recipe)  # which checks it


@pytest.mark.usefixtures("toy")
def test_layer_decay_lowers_the_rate_from_the_head_down() -> None:
    held = groups("full", replace(PLAIN, lr=1.0, layer_decay=0.5))
    blocks = [f"blocks.{block}.attn.qkv.weight" for block in range(4)]
    assert rates(held, ["head.weight", "norm.weight"]) == [1.0, 1.0]
    assert rates(held, reversed(blocks)) == [0.5, 0.25, 0.125, 0.0625]
    below = ["patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed", "cls_token"]
    assert rates(held, below) == [0.03125] * 4


@pytest.mark.usefixtures("toy")
def test_the_head_has_a_rate_of_its_own() -> None:
    held = groups("full", replace(PLAIN, lr=1.0, head_lr_scale=10.0))
    assert {name for name, group in held.items() if group["lr"] == 10.0} == {"head.weight", "head.bias"}
    assert {group["lr"] for group in held.values()} == {1.0, 10.0}


@pytest.mark.usefixtures("toy")
def test_vectors_and_embeddings_are_not_decayed() -> None:
    held = groups("full", replace(PLAIN, weight_decay=0.3))
    decayed = {name for name, group in held.items() if group["weight_decay"]}
    assert all(held[name]["weight_decay"] == 0.3 for name in decayed)
    kinds = {".".join(name.split(".")[2:]) for name in decayed if name.startswith("blocks")}
    assert kinds == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert {name for name in decayed if not name.startswith("blocks")} == {
        "patch_embed.proj.weight",
        "head.weight",
    }


@pytest.mark.usefixtures("toy")
def test_the_rate_is_the_one_of_the_batch_size() -> None:
    held = groups("linear", replace(PLAIN, lr=1.0, lr_batch=256), batch_size=64)
    assert {group["lr"] for group in held.values()} == {0.25}


@pytest.mark.parametrize(
    ("optimizer", "kind", "momentum"),
    [
        ("adamw", torch.optim.AdamW, None),
        ("sgd", torch.optim.SGD, 0.0),
        ("sgd_momentum", torch.optim.SGD, 0.9),
    ],
)
def test_the_optimiser_is_the_recipes(optimizer: str, kind: type, momentum: float | None) -> None:
    made = make_optimizer(Line(), replace(PLAIN, optimizer=optimizer), 4)
    assert type(made) is kind
    assert made.param_groups[0].get("momentum") == momentum


@pytest.mark.parametrize(("recipes", "wanted"), [("adamw", "adamw_8bit"), ("sgd", "sgd_momentum")])
def test_another_optimiser_takes_the_recipes_hyperparameters(recipes: str, wanted: str) -> None:
    recipe = replace(PLAIN, optimizer=recipes, lr=0.25, weight_decay=0.125, momentum=0.75, head_lr_scale=2.0)
    own, other = (make_optimizer(Line(), recipe, 4, name) for name in (None, wanted))
    assert type(own) is not type(other) or recipes == "sgd"
    for mine, theirs in zip(own.param_groups, other.param_groups, strict=True):
        assert (mine["lr"], mine["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
    assert {group["lr"] for group in other.param_groups} == {0.5}
    assert other.param_groups[0].get("momentum") == (0.75 if wanted == "sgd_momentum" else None)


@pytest.mark.parametrize(
    ("implementation", "foreach", "fused"),
    [("auto", None, None), ("loop", False, None), ("foreach", True, None), ("fused", None, True)],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sgd_momentum"])
def test_the_implementation_is_the_one_asked_for(
    optimizer: str, implementation: str, foreach: bool | None, fused: bool | None
) -> None:
    made = make_optimizer(Line(), replace(PLAIN, optimizer=optimizer), 4, implementation=implementation)
    assert {(group["foreach"], group["fused"]) for group in made.param_groups} == {(foreach, fused)}


@pytest.mark.parametrize("implementation", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sgd_momentum"])
def test_implementations_update_alike(optimizer: str, implementation: str) -> None:
    def trained(how: str) -> Line:
        model, recipe = Line(), replace(PLAIN, optimizer=optimizer, weight_decay=0.1)
        fit(
            Step(model, make_optimizer(model, recipe, 4, implementation=how)), batches(), batches(), recipe, 1
        )
        return model

    for mine, own in zip(trained(implementation).parameters(), trained("auto").parameters(), strict=True):
        torch.testing.assert_close(mine, own)


def test_an_optimiser_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r'pip install "bsr-explorer\[8bit\]", or choose adamw') as error:
        make_optimizer(Line(), replace(PLAIN, optimizer="adamw"), 4, "adamw_8bit")
    assert str(error.value).startswith("--optimizer: adamw_8bit needs bitsandbytes")


def test_rates_are_set_over_those_that_the_optimiser_was_made_with() -> None:
    made = make_optimizer(Line(), replace(PLAIN, lr=0.25, head_lr_scale=2.0), 4)
    for factor in (0.5, 0.1, 1.0):
        set_rates(made, factor)
        assert [group["lr"] for group in made.param_groups] == [0.5 * factor] * len(made.param_groups)
