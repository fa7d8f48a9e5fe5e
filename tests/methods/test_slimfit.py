"""SlimFit: which linear layers train."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import SlimFit, parse_method
from bsr_explorer.methods.applied.moving import turned
from bsr_explorer.prediction import predict, spread

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="slimfit(freeze=0.5)")


def test_layers_that_have_not_trained_come_first_then_those_that_changed_most() -> None:
    model, how = build(CONFIG), CONFIG.how
    assert isinstance(how, SlimFit)
    trained: list[set[str]] = []

    def turn(done: int) -> None:
        how.before_step(model, done, 0)
        trained.append(
            {
                name
                for name, p in model.named_parameters()
                if p.requires_grad and name.endswith("mlp.fc1.weight")
            }
        )

    turn(0)
    with torch.no_grad():  # what trained, changed: block 1's more than block 0's
        for block, by in ((0, 1.1), (1, 1.5)):
            model.get_parameter(f"blocks.{block}.mlp.fc1.weight").mul_(by)
    turn(1)
    with torch.no_grad():
        for block, by in ((2, 1.2), (3, 1.01)):
            model.get_parameter(f"blocks.{block}.mlp.fc1.weight").mul_(by)
    turn(2)
    name = "blocks.{}.mlp.fc1.weight".format
    assert trained == [{name(0), name(1)}, {name(2), name(3)}, {name(1), name(2)}]


def test_as_many_of_each_kind_train_and_all_else_does() -> None:
    model = build(CONFIG)
    CONFIG.how.before_step(model, 0, 0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        assert sum(name.endswith(f"{layer}.weight") for name in names) == 2
    assert {"head.weight", "pos_embed", "blocks.3.norm1.weight"} <= set(names)
    assert len(turned(model).shape.rests) == 8


def test_each_step_saves_as_much() -> None:
    found = spread(CONFIG)
    assert found is not None and found.saved_bytes[0] == found.saved_bytes[2]
    assert found.saved_bytes[2] < predict(CONFIG.with_method("full")).saved_bytes


@pytest.mark.parametrize("share", [1.0, -0.5, True, "half"])
def test_what_it_refuses(share: object) -> None:
    with pytest.raises(UserError, match="freeze must be at least 0 and below 1"):
        parse_method(f"slimfit(freeze={share!r})")


def test_at_least_one_layer_of_each_kind_trains() -> None:
    assert SlimFit(0.99).count(12) == 1 and SlimFit(0.0).count(12) == 12
