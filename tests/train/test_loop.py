"""The training loop: its schedule, its parameter groups, when it stops and what it says."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.loop import Outcome, evaluate, fit
from bsr_explorer.train.optimizer import make_optimizer, rate_factor
from bsr_explorer.train.recipes import RECIPES, Recipe
from bsr_explorer.train.step import Step, in_precision

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


def train(
    model: nn.Module,
    loader: DataLoader[Any],
    recipe: Recipe = PLAIN,
    epochs: int = 1,
    validation: DataLoader[Any] | None = None,
    kind: type[Step] = Step,
    **options: Any,
) -> Outcome:
    """``fit`` with the step that a recipe says."""
    optimizer = make_optimizer(model, recipe, 4)
    step = kind(model, optimizer, clip=recipe.clip, label_smoothing=recipe.label_smoothing)
    return fit(step, loader, validation or batches(), recipe, epochs, **options)


# --- the schedule ---------------------------------------------------------------------------------------


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


def test_training_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = replace(PLAIN, warmup_steps=2)
    train(Line(), batches(), recipe, epochs=2)
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


# --- steps ----------------------------------------------------------------------------------------------


def test_every_image_is_trained_on_once_an_epoch() -> None:
    outcome = train(Line(), batches(18), epochs=3)
    assert (outcome.steps, outcome.images) == (15, 54)  # a last batch of 2 images
    assert len(outcome.losses) == 3
    assert outcome.losses == sorted(outcome.losses, reverse=True)
    assert 0 < outcome.step_seconds < outcome.seconds
    assert outcome.diverged is None


@pytest.mark.parametrize(("limit", "steps", "epochs"), [(3, 3, 1), (5, 5, 1), (7, 7, 2), (100, 10, 2)])
def test_the_recipes_steps_end_training_earlier(limit: int, steps: int, epochs: int) -> None:
    outcome = train(Line(), batches(), replace(PLAIN, steps=limit), epochs=2)
    assert outcome.steps == steps
    assert outcome.images == 4 * steps
    assert len(outcome.losses) == epochs
    assert len(outcome.accuracy) == 1


def test_the_gradient_is_clipped() -> None:
    def moved(clip: float | None) -> float:
        model, start = Line(), Line()
        train(model, batches(4), replace(PLAIN, lr=1.0, clip=clip))
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))

    assert moved(None) > 0.1
    assert moved(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert moved(1e3) == pytest.approx(moved(None))


def test_labels_are_smoothed() -> None:
    images, labels = next(iter(batches(4)))
    expected = F.cross_entropy(Line()(images), labels, label_smoothing=0.2).item()
    assert train(Line(), batches(4), replace(PLAIN, label_smoothing=0.2)).losses == [expected]
    assert train(Line(), batches(4)).losses != [expected]


def test_what_does_not_train_stays() -> None:
    model = Line()
    model.head.weight.requires_grad_(False)
    train(model, batches(), replace(PLAIN, weight_decay=0.5, optimizer="adamw"))
    assert torch.equal(model.head.weight, Line().head.weight)
    assert not torch.equal(model.head.bias, Line().head.bias)


def test_each_batch_is_given_to_the_step_once_an_epoch() -> None:
    model, got = Line(), []

    class Noting(Step):
        def __call__(self, images: Tensor, labels: Tensor) -> float:
            assert model.training
            got.append((images, labels, model.head.weight.detach().clone()))
            return super().__call__(images, labels)

    train(model, batches(), epochs=2, kind=Noting)
    expected = [*batches(), *batches()]
    assert len(got) == len(expected) == 10
    for (images, labels, _), batch in zip(got, expected, strict=True):
        assert torch.equal(images, batch[0])
        assert torch.equal(labels, batch[1])
    assert torch.equal(got[0][2], Line().head.weight)
    assert len({tuple(weights.flatten().tolist()) for _, _, weights in got}) == 10


def test_progress_is_told_after_every_step() -> None:
    told: list[tuple[int, int, float]] = []
    outcome = train(Line(), batches(), epochs=2, progress=lambda *said: told.append(said))
    assert [said[:2] for said in told] == [(step, 10) for step in range(1, 11)]
    assert sum(said[2] for said in told[:5]) / 5 == pytest.approx(outcome.losses[0])


def test_a_loss_that_is_not_finite_ends_training() -> None:
    model = Line()
    poisoned = batches()
    poisoned.dataset.tensors[0][8:].fill_(math.nan)  # type: ignore[attr-defined]
    outcome = train(model, poisoned, epochs=2)
    assert outcome.diverged == "the loss was nan at step 3 of 10"
    assert outcome.steps == 2
    assert outcome.accuracy == []
    assert len(outcome.losses) == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# --- rungs ----------------------------------------------------------------------------------------------


def test_a_trial_below_a_rung_stops_there() -> None:
    accuracy = train(Line(), batches(), epochs=4, every=1).accuracy
    outcome = train(Line(), batches(), epochs=4, rungs={1: -math.inf, 2: accuracy[1] + 0.001, 3: 0.0})
    assert (outcome.accuracy, outcome.evaluated) == (accuracy[:2], [1, 2])
    assert (outcome.steps, len(outcome.losses)) == (10, 2)
    assert outcome.stopped == (
        f"stopped after epoch 2 of 4: the accuracy was {accuracy[1]:.2%}, and {accuracy[1] + 0.001:.2%} was asked for"
    )
    assert outcome.diverged is None


def test_a_trial_that_is_as_good_as_a_rung_goes_on() -> None:
    plain = train(Line(), batches(), epochs=3, every=1)
    outcome = train(Line(), batches(), epochs=3, rungs={1: plain.accuracy[0], 2: plain.accuracy[1]})
    assert outcome.stopped is None
    assert (outcome.accuracy, outcome.evaluated) == (plain.accuracy, [1, 2, 3])
    assert outcome.losses == plain.losses


def test_no_trial_is_stopped_at_its_end() -> None:
    outcome = train(Line(), batches(), epochs=2, rungs={2: 1.1, 3: 1.1})
    assert outcome.stopped is None
    assert outcome.evaluated == [2]


def test_a_trial_may_be_asked_to_go_no_further() -> None:
    outcome = train(Line(), batches(), epochs=2, rungs={1: math.inf})
    assert outcome.stopped == (
        f"stopped after epoch 1 of 2: the accuracy was {outcome.accuracy[0]:.2%}, and no more was asked for"
    )


def test_outputs_that_are_not_finite_at_a_rung_are_divergence() -> None:
    poisoned = batches(21)
    poisoned.dataset.tensors[0][:] = math.inf  # type: ignore[attr-defined]
    outcome = train(Line(), batches(), epochs=3, validation=poisoned, rungs={2: 0.0})
    assert outcome.diverged == "the outputs were not finite after step 10 of 15"
    assert outcome.accuracy == outcome.evaluated == []


# --- evaluation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "count"), [(1, 3), (None, 1)])
def test_validation_is_evaluated_after_each_epoch_or_at_the_end(every: int | None, count: int) -> None:
    model = Line()
    outcome = train(model, batches(), epochs=3, validation=batches(21), every=every)
    assert len(outcome.accuracy) == count
    assert outcome.accuracy[-1] == evaluate(model, batches(21))


def test_validation_is_evaluated_when_an_epoch_is_over_in_which_enough_steps_are_done() -> None:
    outcome = train(
        Line(), batches(), epochs=5, every=7
    )  # 5 steps an epoch: the 7th, 14th and 21st end in these
    assert outcome.evaluated == [2, 3, 5]


def test_accuracy_is_the_share_of_right_answers() -> None:
    class Always(Line):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return F.one_hot(torch.full((len(x),), 2), 3).float()

    assert evaluate(Always().train(), batches(count=8, batch=3)) == 2 / 8  # of the labels 0 1 2 0 1 2 0 1


@pytest.mark.parametrize(
    ("precision", "images", "outputs"),
    [
        ("fp32", torch.float32, torch.float32),
        ("amp_bf16", torch.float32, torch.bfloat16),
        ("amp_fp16", torch.float32, torch.float16),
        ("bf16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_evaluation_and_training_are_in_the_precision(
    precision: str, images: torch.dtype, outputs: torch.dtype
) -> None:
    model = in_precision(Line(), precision)
    used: list[tuple[torch.dtype, torch.dtype]] = []
    model.register_forward_hook(lambda module, args, out: used.append((args[0].dtype, out.dtype)))
    evaluate(model, batches(), precision)
    assert set(used) == {(images, outputs)}
    used.clear()
    fit(Step(model, make_optimizer(model, PLAIN, 4), precision), batches(), batches(), PLAIN, 1)
    assert len(used) == 10  # 5 steps, and 5 batches of validation
    assert set(used) == {(images, outputs)}


# --- going on within an epoch ---------------------------------------------------------------------------


class Noted(Dataset[tuple[Tensor, int]]):
    """Images that say which of them were loaded."""

    def __init__(self, count: int = 20) -> None:
        self.images = torch.randn(count, 5, generator=torch.Generator().manual_seed(1))
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        self.loaded.append(item)
        return self.images[item] + 0.01 * torch.randn(5), item % 3  # augmented


def shuffled(dataset: Noted) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(7))


def test_what_was_trained_on_is_not_loaded_again(tmp_path: Path) -> None:
    whole, model, dies, again = Noted(), Line(), Line(), Line()
    torch.manual_seed(0)
    expected = train(model, shuffled(whole), epochs=2, every=1)

    class Killed(Exception):
        pass

    def dying(done: int, total: int, loss: float) -> None:
        if done == 9:
            raise Killed

    checkpoint = Checkpoint(tmp_path / "x.ckpt", "this", every=0.0)
    torch.manual_seed(0)
    with pytest.raises(Killed):
        train(dies, shuffled(Noted()), epochs=2, every=1, checkpoint=checkpoint, progress=dying)
    torch.manual_seed(99)
    rest = Noted()
    outcome = train(again, shuffled(rest), epochs=2, every=1, checkpoint=checkpoint)
    assert rest.loaded == whole.loaded[4 * 8 :]
    assert torch.equal(again.head.weight, model.head.weight)
    assert (outcome.losses, outcome.accuracy, outcome.images) == (expected.losses, expected.accuracy, 40)
    assert outcome.running == []


@pytest.mark.parametrize(("every", "count"), [(math.inf, 1), (3600.0, 1), (0.0, 9)])
def test_checkpoints_within_an_epoch_are_as_far_apart_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, count: int
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, state: saved.append(len(state["outcome"]["running"]))
    )
    train(Line(), batches(), epochs=2, checkpoint=Checkpoint(tmp_path / "x.ckpt", "this", every))
    assert len(saved) == count
    assert saved.count(0) == 1  # between the epochs


def test_each_evaluation_is_told() -> None:
    told: list[tuple[int, float, float]] = []
    outcome = train(Line(), batches(), epochs=3, rungs={2: 0.0}, evaluated=lambda *said: told.append(said))
    assert told == [(2, outcome.losses[1], outcome.accuracy[0]), (3, outcome.losses[2], outcome.accuracy[1])]
