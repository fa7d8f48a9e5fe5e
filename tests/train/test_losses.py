"""Losses that are read later are those that are read at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.loop import TOGETHER, Outcome, fit
from bsr_explorer.train.losses import KEPT, Losses, mean_of
from bsr_explorer.train.optimizer import make_optimizer
from bsr_explorer.train.step import Step
from tests.train.line import PLAIN, Line, batches


class Reading(Step):
    """Reads losses later, as on a GPU."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.later = True


def train(kind: type[Step], images: int = 20, epochs: int = 1, **options: Any) -> tuple[Outcome, Line]:
    model = Line()
    loader = options.pop("loader", batches(images))
    step = kind(model, make_optimizer(model, PLAIN, 4), micro_batches=options.pop("micro_batches", 1))
    return fit(step, loader, batches(), PLAIN, epochs, **options), model


def what(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.losses, outcome.scores, outcome.steps, outcome.images, outcome.running, outcome.diverged


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("images", [20, 4 * TOGETHER, 4 * TOGETHER + 6])
def test_a_training_comes_to_the_same(micro_batches: int, images: int) -> None:
    told: dict[type[Step], list[Any]] = {Step: [], Reading: []}
    (mine, model), (theirs, other) = (
        train(
            kind,
            images,
            2,
            micro_batches=micro_batches,
            progress=lambda *said, kind=kind: told[kind].append(said),
        )
        for kind in (Reading, Step)
    )
    assert what(mine) == what(theirs)
    assert told[Reading] == told[Step]
    assert torch.equal(model.head.weight, other.head.weight)
    assert len(mine.durations) == len(theirs.durations)


@pytest.mark.parametrize("bad", [0, 5, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 1])
def test_a_loss_that_is_not_finite_ends_training_where_it_was(bad: int) -> None:
    def poisoned() -> Any:
        loader = batches(4 * (2 * TOGETHER + 5))
        loader.dataset.tensors[0][4 * bad : 4 * bad + 4] = math.nan  # type: ignore[attr-defined]
        return loader

    mine, theirs = (train(kind, loader=poisoned())[0] for kind in (Reading, Step))
    assert what(mine) == what(theirs)
    assert mine.diverged == f"the loss was nan at step {bad + 1} of {2 * TOGETHER + 5}"
    assert (mine.steps, mine.images) == (bad, 4 * bad)


def test_a_checkpoint_has_all_losses_before_it(tmp_path: Path) -> None:
    """Killed between two readings, it goes on from the last one, to the same outcome."""
    images, expected = 4 * (TOGETHER + 9), train(Reading, 4 * (TOGETHER + 9), 2)

    class Killed(Exception):
        pass

    class Dying(Reading):
        def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Any:
            if self.done == TOGETHER + 4:
                raise Killed
            return super().__call__(images, labels)

    kept = Checkpoint(tmp_path / "x.ckpt", "this", every=0.0)
    with pytest.raises(Killed):
        train(Dying, images, 2, checkpoint=kept)
    again, model = train(Reading, images, 2, checkpoint=kept)
    assert what(again) == what(expected[0])
    assert torch.equal(model.head.weight, expected[1].head.weight)


def test_the_mean_is_of_shares_and_the_first_that_is_not_finite_is_said() -> None:
    assert mean_of([(1.0, 0.25), (3.0, 0.75)]) == 2.5
    assert mean_of([(1.0, 0.5), (math.inf, 0.25), (math.nan, 0.25)]) == math.inf


def test_a_loss_is_there_until_as_many_steps_were_made() -> None:
    losses = Losses(2, torch.bfloat16, torch.device("cpu"))
    first = losses.next()
    first.note(torch.tensor(1.5, dtype=torch.bfloat16), 0.5)
    for _ in range(KEPT - 1):
        losses.next().note(torch.tensor(7.0), 1.0)
    assert float(first) == 0.75
    losses.next().note(torch.tensor(2.0), 1.0)
    assert float(first) == 1.0
