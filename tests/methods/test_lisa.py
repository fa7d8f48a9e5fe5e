"""LISA: which blocks train, and when others do."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import Lisa, parse_method
from bsr_explorer.prediction import predict, spread

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="lisa(k=2, every=3)")


def test_other_blocks_train_every_few_steps_and_all_else_always() -> None:
    model, seen = build(CONFIG), []
    torch.manual_seed(0)
    for done in range(12):
        CONFIG.how.before_step(model, done, 12)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        seen.append(tuple(sorted({name.split(".")[1] for name in trained if name.startswith("blocks.")})))
        assert {"head.weight", "norm.weight", "pos_embed", "patch_embed.proj.weight"} <= trained
    assert all(len(blocks) == 2 for blocks in seen)
    assert all(len(set(seen[turn : turn + 3])) == 1 for turn in range(0, 12, 3))
    assert len(set(seen)) > 1


def test_whichever_blocks_train_as_much_is_saved_and_the_forgotten_state_is_not_held() -> None:
    found = spread(CONFIG)
    assert found is not None and found.saved_bytes[0] == found.saved_bytes[2]
    kept = CONFIG.with_method("lisa(k=2, every=3, forget=False)")
    full = predict(CONFIG.with_method("full"))
    assert predict(CONFIG).optimizer_bytes < predict(kept).optimizer_bytes == full.optimizer_bytes
    assert predict(CONFIG).gradient_bytes == predict(kept).gradient_bytes < full.gradient_bytes


def test_all_blocks_are_full_fine_tuning_to_the_last_bit() -> None:
    fidelity = Fidelity(train_size=16, val_size=16, epochs=2)
    mine, full = (
        fine_tune(CONFIG.with_method(m), fidelity=fidelity, weights="random")
        for m in ("lisa(k=4, every=1)", "full")
    )
    assert (mine.losses, mine.accuracy) == (full.losses, full.accuracy)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisa(k=5)", "the model has 4 blocks, so k must be 1 to 4"),
        ("lisa(k=0)", "k must be a whole number of at least 1"),
        ("lisa(every=0)", "every must be a whole number of at least 1"),
        ("lisa(forget=1)", "forget must be True or False"),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        predict(CONFIG.with_method(text))


def test_a_schedule_that_is_longer_than_the_training_is_refused() -> None:
    fidelity = Fidelity(train_size=16, val_size=16, epochs=1)
    with pytest.raises(UserError, match="draws other blocks every 50 steps, and the training has 8"):
        fine_tune(CONFIG.with_method(Lisa(2, every=50)), fidelity=fidelity, weights="random")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Lisa()) == "lisa(k=2)" and parse_method("lisa(k=3, every=2)") == Lisa(3, 2)
