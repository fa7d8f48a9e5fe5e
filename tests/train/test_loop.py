"""The training loop: its schedule, when it stops and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bsr_explorer.quality import PERPLEXITY, PIXEL_ACCURACY
from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.loop import Outcome, evaluate, fit, scores
from bsr_explorer.train.optimizer import make_optimizer, rate_factor
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, in_precision
from tests.train.line import PLAIN, Line, batches


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
    assert len(outcome.scores) == 1


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
    assert outcome.scores == []
    assert len(outcome.losses) == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# --- rungs ----------------------------------------------------------------------------------------------


def test_a_trial_below_a_rung_stops_there() -> None:
    accuracy = train(Line(), batches(), epochs=4, every=1).scores
    outcome = train(Line(), batches(), epochs=4, rungs={1: -math.inf, 2: accuracy[1] + 0.001, 3: 0.0})
    assert (outcome.scores, outcome.evaluated) == (accuracy[:2], [1, 2])
    assert (outcome.steps, len(outcome.losses)) == (10, 2)
    assert outcome.stopped == (
        f"stopped after epoch 2 of 4: the accuracy was {accuracy[1]:.2%}, and {accuracy[1] + 0.001:.2%} was asked for"
    )
    assert outcome.diverged is None


def test_a_trial_that_is_as_good_as_a_rung_goes_on() -> None:
    plain = train(Line(), batches(), epochs=3, every=1)
    outcome = train(Line(), batches(), epochs=3, rungs={1: plain.scores[0], 2: plain.scores[1]})
    assert outcome.stopped is None
    assert (outcome.scores, outcome.evaluated) == (plain.scores, [1, 2, 3])
    assert outcome.losses == plain.losses


def test_no_trial_is_stopped_at_its_end() -> None:
    outcome = train(Line(), batches(), epochs=2, rungs={2: 1.1, 3: 1.1})
    assert outcome.stopped is None
    assert outcome.evaluated == [2]


def test_a_trial_may_be_asked_to_go_no_further() -> None:
    outcome = train(Line(), batches(), epochs=2, rungs={1: math.inf})
    assert outcome.stopped == (
        f"stopped after epoch 1 of 2: the accuracy was {outcome.scores[0]:.2%}, and no more was asked for"
    )


def test_outputs_that_are_not_finite_at_a_rung_are_divergence() -> None:
    poisoned = batches(21)
    poisoned.dataset.tensors[0][:] = math.inf  # type: ignore[attr-defined]
    outcome = train(Line(), batches(), epochs=3, validation=poisoned, rungs={2: 0.0})
    assert outcome.diverged == "the outputs were not finite after step 10 of 15"
    assert outcome.scores == outcome.evaluated == []


# --- evaluation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "count"), [(1, 3), (None, 1)])
def test_validation_is_evaluated_after_each_epoch_or_at_the_end(every: int | None, count: int) -> None:
    model = Line()
    outcome = train(model, batches(), epochs=3, validation=batches(21), every=every)
    assert len(outcome.scores) == count
    assert outcome.scores[-1] == evaluate(model, batches(21))


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
    assert (outcome.losses, outcome.scores, outcome.images) == (expected.losses, expected.scores, 40)
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
    assert told == [(2, outcome.losses[1], outcome.scores[0]), (3, outcome.losses[2], outcome.scores[1])]


# --- looking before the first step ------------------------------------------------------------------------


class Looking:
    """Looks at two batches, and draws random numbers meanwhile."""

    looks = 2

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.began = 0

    def begin(self, step: Step, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        self.began += 1
        self.seen = [images for images, _ in batches()]
        again = [images for images, _ in batches()]
        assert all(torch.equal(a, b) for a, b in zip(self.seen, again, strict=True))
        torch.rand(3)

    def before(self, step: Step) -> None:
        return

    def state_dict(self, step: Step) -> dict[str, Any]:
        return {}

    def load_state_dict(self, step: Step, state: dict[str, Any]) -> None:
        return


class LookingStep(Step):
    """Notes the images of each step, and what random numbers come then."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.noted: list[Tensor] = []
        self.drawn: list[float] = []
        NOTED.append(self)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        self.noted.append(images)
        self.drawn.append(float(torch.rand(())))
        return super().__call__(images, labels)


class LooksFirst(LookingStep):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.changes = Looking()


NOTED: list[LookingStep] = []


def test_what_looks_sees_the_first_batches_and_changes_nothing_of_the_training() -> None:
    for kind in (LookingStep, LooksFirst):
        torch.manual_seed(5)
        train(Line(), shuffled(batches(20).dataset), epochs=2, kind=kind)
    plain, looking = NOTED[-2:]
    assert isinstance(looking.changes, Looking)
    assert looking.changes.began == 1
    assert all(torch.equal(a, b) for a, b in zip(looking.changes.seen, looking.noted[:2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.noted, looking.noted, strict=True))
    assert plain.drawn == looking.drawn


def test_what_goes_on_looks_no_more(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "x.ckpt", "this", every=0.0)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Line(), batches(20), epochs=2, kind=LooksFirst, checkpoint=checkpoint, progress=stop)
    train(Line(), batches(20), epochs=2, kind=LooksFirst, checkpoint=checkpoint)
    counts = [step.changes.began for step in NOTED[-2:] if isinstance(step.changes, Looking)]
    assert counts == [1, 0]


class Constant(nn.Module):
    """Says the same of each token: the logits of a distribution."""

    def __init__(self, chances: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(chances).log())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*tokens.shape, -1)


def test_a_perplexity_is_of_all_tokens_alike() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]])
    pairs = list(zip(torch.zeros_like(labels), labels, strict=True))
    score = evaluate(Constant([0.25, 0.75]), DataLoader(pairs, batch_size=2), quality=PERPLEXITY)  # type: ignore[arg-type]
    nats = -(3 * math.log(0.25) + 6 * math.log(0.75)) / 9
    assert PERPLEXITY.value(score) == pytest.approx(math.exp(nats))


def test_an_accuracy_of_pixels_is_of_all_pixels() -> None:
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 3, 3)
    labels = torch.zeros(2, 3, 3, dtype=torch.int64)
    labels[0, 0, :2] = 1

    class Fixed(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits

    loader = DataLoader(list(zip(torch.zeros(2, 3, 3, 3), labels, strict=True)), batch_size=2)  # type: ignore[arg-type]
    assert evaluate(Fixed(1, 1), loader, quality=PIXEL_ACCURACY) == pytest.approx(16 / 18)


# --- several tasks --------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Gives logits of its own, in turn, whatever it is given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.tasks = (2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[images[:, 0].long()]


def test_each_task_is_judged_among_its_own_classes() -> None:
    """Whatever is greatest beyond them."""
    logits = torch.tensor(
        [[1.0, 0, 9, 9, 9], [1, 0, 9, 9, 9], [9, 9, 0, 2, 1], [9, 9, 0, 1, 2], [9, 9, 3, 1, 2]]
    )
    labels = torch.tensor([0, 1, 3, 4, 4])
    loader = [(torch.arange(5.0)[n : n + 2, None], labels[n : n + 2]) for n in (0, 2, 4)]

    class Batches(list):  # type: ignore[type-arg]
        dataset = None

    model, given = Fixed(logits), Batches(loader)
    assert scores(model, given) == (1 / 2, 2 / 3)  # type: ignore[arg-type]
    assert evaluate(model, given) == pytest.approx((1 / 2 + 2 / 3) / 2)  # type: ignore[arg-type]
    model.tasks = ()
    assert scores(model, given) == (0.0,)  # type: ignore[arg-type]
    model.tasks = (2, 3)
    model.logits.data[0, 0] = math.nan
    assert all(map(math.isnan, scores(model, given)))  # type: ignore[arg-type]
