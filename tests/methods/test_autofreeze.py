"""AutoFreeze: when blocks are frozen."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import AutoFreeze, parse_method
from bsr_explorer.prediction import predict

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="autofreeze(every=2)")


def frozen_after(changes: list[list[float]], percentile: float) -> list[int]:
    """How many blocks are frozen after each span, in which blocks changed by these factors."""
    model, how, found = build(CONFIG), AutoFreeze(1, percentile), []
    how.before_step(model, 0, 0)
    for done, factors in enumerate(changes, start=1):
        with torch.no_grad():
            for block, by in enumerate(factors):
                for p in model.get_submodule(f"blocks.{block}").parameters():
                    p.mul_(1 + by)
        how.before_step(model, done, 0)
        resting = [name for name, p in model.named_parameters() if not p.requires_grad]
        blocks = {name.split(".")[1] for name in resting if name.startswith("blocks.")}
        found.append(len(blocks))
        assert ("pos_embed" in resting) == bool(blocks)
        assert blocks == {str(block) for block in range(len(blocks))}
    return found


def test_the_lowest_blocks_of_which_the_change_shrank_least_are_frozen_for_good() -> None:
    first, then = [0.1, 0.1, 0.1, 0.1], [0.099, 0.098, 0.05, 0.01]
    assert frozen_after([first, then], 50.0) == [0, 2]
    assert frozen_after([first, then], 25.0) == [0, 1]
    assert frozen_after([first, then, [0.5] * 4], 50.0) == [0, 2, 2]


def test_a_block_that_changes_more_is_not_frozen_nor_what_is_above_it_and_never_the_highest() -> None:
    assert frozen_after([[0.1] * 4, [0.2, 0.01, 0.01, 0.01]], 100.0) == [0, 0]
    assert frozen_after([[0.1] * 4, [0.09, 0.2, 0.01, 0.01]], 100.0) == [0, 1]
    assert frozen_after([[0.1] * 4, [0.05] * 4], 100.0) == [0, 3]


def test_a_training_that_is_too_short_to_judge_is_refused() -> None:
    fidelity = Fidelity(train_size=16, val_size=16, epochs=1)
    with pytest.raises(
        UserError, match="compares two spans of 10 steps, and the training has 8; let every be at most 3"
    ):
        fine_tune(CONFIG.with_method(AutoFreeze(10)), fidelity=fidelity, weights="random")


def test_its_fullest_step_is_the_first_and_remembers_some_entries() -> None:
    full, mine = predict(CONFIG.with_method("full")), predict(CONFIG)
    assert mine.saved_bytes == full.saved_bytes and mine.train_flops < full.train_flops
    assert mine.parameter_bytes > full.parameter_bytes


@pytest.mark.parametrize(
    "text", ["autofreeze(percentile=0)", "autofreeze(percentile=101)", "autofreeze(every=0)"]
)
def test_what_it_refuses(text: str) -> None:
    with pytest.raises(UserError, match="must be"):
        parse_method(text)
