"""ALaST: budgets, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import Alast, parse_method
from bsr_explorer.methods.alast import keeping
from bsr_explorer.methods.applied.moving import turned
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.operations.tokens import kept_tokens
from bsr_explorer.prediction import predict

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="alast(K=2, alpha=1.0)")
FIDELITY = Fidelity(train_size=16, val_size=16, epochs=2)


def budgets_after(changes: list[list[float]], how: Alast) -> tuple[list[float], Any]:
    """Budgets and the shape of the next step, after steps in which blocks changed the class token by this much."""
    model: Any = build(CONFIG.with_method(how))
    how.before_step(model, 0, 0)
    for done, change in enumerate(changes, start=1):
        model.get_buffer("remembered.values").copy_(torch.tensor(change) / model.embed_dim)
        how.before_step(model, done, 0)
    return turned(model).memory["budgets"], turned(model).shape


def test_a_budget_follows_the_difference_between_two_changes_and_stays_within_0_and_1() -> None:
    how = Alast(2, 0.5)
    assert budgets_after([[4.0, 3.0, 2.0, 1.0]], how)[0] == [1.0] * 4  # there is no difference yet
    budgets, shape = budgets_after([[4.0, 3.0, 2.0, 1.0], [3.0, 4.0, 1.5, -9.0]], how)
    assert budgets == pytest.approx([0.5, 1.0, 0.75, 0.0], abs=1e-5)
    assert [path for path in shape.rests if path.startswith("blocks")] == ["blocks.0", "blocks.3"]


def test_a_share_of_the_tokens_as_large_as_the_budget_goes_on_and_at_least_one() -> None:
    _, shape = budgets_after([[4.0, 3.0, 2.0, 1.0], [3.0, 4.0, 1.5, -9.0]], Alast(2, 0.5))
    patches = build(CONFIG).patch_embed.num_patches  # type: ignore[union-attr]
    assert shape.tokens == ((0, round(patches / 2)), (3, 1))  # block 2 would keep more than are left


def test_blocks_are_drawn_by_their_budgets_if_that_is_asked() -> None:
    how = Alast(2, 0.5, "sample")
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        _, shape = budgets_after([[4.0] * 4, [-9.0, 4.0, 4.0, 4.0]], how)
        seen.add(shape.rests)
        assert "blocks.0" in shape.rests  # its budget is 0
    assert len(seen) > 1


def test_what_a_block_changes_of_the_class_token_is_noted() -> None:
    model: Any = build(CONFIG)
    seen: list[float] = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda module, inputs, output: seen.append(
                float((output[:, 0] - inputs[0][:, 0]).square().sum(dim=1).mean())
            )
        )
    model.train()(torch.randn(2, 3, 48, 48))
    noted = (model.get_buffer("remembered.values") * model.embed_dim).tolist()
    assert noted == pytest.approx(seen, rel=1e-5)


def test_with_all_blocks_and_full_budgets_it_is_full_fine_tuning_to_the_last_bit() -> None:
    for method in ("alast(K=4, alpha=0)", "alast(K=4, alpha=1e-12)"):
        mine, full = (
            fine_tune(CONFIG.with_method(m), fidelity=FIDELITY, weights="random") for m in (method, "full")
        )
        assert (mine.losses, mine.accuracy) == (full.losses, full.accuracy)


def test_evaluation_sees_all_tokens() -> None:
    config = CONFIG.with_method("alast(K=4)")
    model, plain, images = build(config), build(CONFIG.with_method("full")), torch.randn(2, 3, 48, 48)
    plain.load_state_dict(config.how.merge(dict(model.state_dict())))
    from bsr_explorer.methods.steps import Shape

    config.how.turn(model, Shape(tokens=((0, 1),)))
    model.train()
    dropped = model(images)
    assert not torch.allclose(dropped, plain(images))
    assert torch.equal(model.eval()(images), plain.eval()(images))


def test_without_the_stem_nothing_below_the_lowest_block_keeps_anything() -> None:
    with_stem, without = (predict(CONFIG.with_method(f"alast(K=2, stem={stem})")) for stem in (True, False))
    assert without.saved_bytes == with_stem.saved_bytes  # the fullest step trains the lowest block
    from bsr_explorer.prediction import spread

    found = spread(CONFIG.with_method("alast(K=2, stem=False)"))
    assert found is not None and found.saved_bytes[1] < without.saved_bytes


@pytest.mark.parametrize("count", range(1, 30))
def test_a_keep_rate_keeps_as_many_as_it_was_made_for(count: int) -> None:
    assert all(kept_tokens(patches, keeping(count, patches)) == count for patches in range(count, 200))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alast(K=5)", "the model has 4 blocks, so K must be 1 to 4"),
        ("alast(K=0)", "K must be a whole number"),
        ("alast(alpha=-1)", "alpha must be a number of at least 0"),
        ("alast(draw='best')", "top.*sample"),
        ("alast(stem=1)", "stem must be True or False"),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        predict(CONFIG.with_method(text))


def test_a_model_without_a_class_token_has_nothing_to_follow() -> None:
    from dataclasses import replace

    geometry = replace(KNOWN["deit_tiny_patch16_224"], class_token=False, pool="avg", final_norm="fc_norm")
    with pytest.raises(UserError, match="follows the class token, and the model has none; let alpha be 0"):
        Alast().rewrite(step_tape(geometry, 2, "fused"))
    assert parse_method("alast", geometry) == Alast(9, 0.0)
