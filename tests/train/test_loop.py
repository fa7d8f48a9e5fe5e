"""The training loop: its schedule, its parameter groups, when it stops and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bsr_explorer.config import Config
from bsr_explorer.run import build
from bsr_explorer.train.loop import evaluate, fit, make_optimizer, rate_factor
from bsr_explorer.train.recipes import RECIPES, Recipe

PLAIN = Recipe("plain", "ours", "sgd", lr=0.1, weight_decay=0.0, epochs=1, batch_size=4, warmup_steps=0)


class Line(nn.Module):
    """A linear classifier of 3 classes, with blocks as a vision transformer has, but none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 15).reshape(3, 5))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x)
        return out


def batches(count: int = 20, batch: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 5, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size=batch)


# --- the schedule ---------------------------------------------------------------------------------------


def test_the_rate_warms_up_in_equal_steps_and_falls_as_a_cosine() -> None:
    recipe = replace(PLAIN, warmup_steps=4)
    rates = [rate_factor(step, 14, recipe) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert rates[9] == pytest.approx(0.5)
    assert rates[-1] < 0.03


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


def test_training_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = replace(PLAIN, warmup_steps=2)
    fit(Line(), batches(), batches(), recipe, epochs=2)
    assert seen == pytest.approx([0.1 * rate_factor(i, 10, recipe) for i in range(10)])


# --- the optimiser --------------------------------------------------------------------------------------


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


# --- steps ----------------------------------------------------------------------------------------------


def test_every_image_is_trained_on_once_an_epoch() -> None:
    outcome = fit(Line(), batches(18), batches(), PLAIN, epochs=3)
    assert (outcome.steps, outcome.images) == (15, 54)  # a last batch of 2 images
    assert len(outcome.losses) == 3
    assert outcome.losses == sorted(outcome.losses, reverse=True)
    assert 0 < outcome.step_seconds < outcome.seconds
    assert outcome.diverged is None


@pytest.mark.parametrize(("limit", "steps", "epochs"), [(3, 3, 1), (5, 5, 1), (7, 7, 2), (100, 10, 2)])
def test_the_recipes_steps_end_training_earlier(limit: int, steps: int, epochs: int) -> None:
    outcome = fit(Line(), batches(), batches(), replace(PLAIN, steps=limit), epochs=2)
    assert outcome.steps == steps
    assert outcome.images == 4 * steps
    assert len(outcome.losses) == epochs
    assert len(outcome.accuracy) == 1


def test_the_gradient_is_clipped() -> None:
    def moved(clip: float | None) -> float:
        model, start = Line(), Line()
        fit(model, batches(4), batches(), replace(PLAIN, lr=1.0, clip=clip), epochs=1)
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))

    assert moved(None) > 0.1
    assert moved(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert moved(1e3) == pytest.approx(moved(None))


def test_labels_are_smoothed() -> None:
    images, labels = next(iter(batches(4)))
    expected = F.cross_entropy(Line()(images), labels, label_smoothing=0.2).item()
    assert fit(Line(), batches(4), batches(), replace(PLAIN, label_smoothing=0.2), 1).losses == [expected]
    assert fit(Line(), batches(4), batches(), PLAIN, 1).losses != [expected]


def test_what_does_not_train_stays() -> None:
    model = Line()
    model.head.weight.requires_grad_(False)
    fit(model, batches(), batches(), replace(PLAIN, weight_decay=0.5, optimizer="adamw"), epochs=1)
    assert torch.equal(model.head.weight, Line().head.weight)
    assert not torch.equal(model.head.bias, Line().head.bias)


def test_the_first_batch_is_shown_once_before_it_is_trained_on() -> None:
    model, shown = Line(), []

    def first_step(images: Tensor, labels: Tensor) -> None:
        shown.append((images.clone(), labels.clone(), model.head.weight.detach().clone()))

    fit(model, batches(), batches(), PLAIN, epochs=2, first_step=first_step)
    images, labels = next(iter(batches()))
    assert len(shown) == 1
    assert torch.equal(shown[0][0], images)
    assert torch.equal(shown[0][1], labels)
    assert torch.equal(shown[0][2], Line().head.weight)


def test_progress_is_told_after_every_step() -> None:
    told: list[tuple[int, int, float]] = []
    outcome = fit(Line(), batches(), batches(), PLAIN, 2, lambda *said: told.append(said))
    assert [said[:2] for said in told] == [(step, 10) for step in range(1, 11)]
    assert sum(said[2] for said in told[:5]) / 5 == pytest.approx(outcome.losses[0])


def test_a_loss_that_is_not_finite_ends_training() -> None:
    model = Line()
    poisoned = batches()
    poisoned.dataset.tensors[0][8:].fill_(math.nan)  # type: ignore[attr-defined]
    outcome = fit(model, poisoned, batches(), PLAIN, epochs=2)
    assert outcome.diverged == "the loss was nan at step 3 of 10"
    assert outcome.steps == 2
    assert outcome.accuracy == []
    assert len(outcome.losses) == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# --- evaluation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every_epoch", "count"), [(True, 3), (False, 1)])
def test_validation_is_evaluated_after_each_epoch_or_at_the_end(every_epoch: bool, count: int) -> None:
    model = Line()
    outcome = fit(model, batches(), batches(21), PLAIN, epochs=3, every_epoch=every_epoch)
    assert len(outcome.accuracy) == count
    assert outcome.accuracy[-1] == evaluate(model, batches(21))


def test_accuracy_is_the_share_of_right_answers() -> None:
    class Always(Line):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return F.one_hot(torch.full((len(x),), 2), 3).float()

    assert evaluate(Always().train(), batches(count=8, batch=3)) == 2 / 8  # of the labels 0 1 2 0 1 2 0 1
