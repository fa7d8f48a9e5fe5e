"""DropBP: what a skipped branch does not do."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import DropBP, parse_method
from bsr_explorer.methods.moving import InStep
from bsr_explorer.methods.steps import Shape
from bsr_explorer.prediction import predict, steps_of

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="full+dropbp")
SKIPPED = DropBP().steps(4).shape(("blocks.1.attn", "blocks.2.mlp"))


def test_the_forward_pass_is_the_plain_models_and_gradients_are_those_without_the_skipped_branches() -> None:
    images = torch.randn(2, 3, 48, 48)
    plain, model = build(CONFIG.with_method("full")), build(CONFIG)
    CONFIG.how.turn(model, SKIPPED)
    outputs = model(images)
    assert torch.equal(outputs, plain(images))
    outputs.sum().backward()
    for branch, begin in (("blocks.1.attn", "blocks.1.norm1"), ("blocks.2.mlp", "blocks.2.norm2")):
        assert all(p.grad is None for p in model.get_submodule(branch).parameters())
        assert all(p.grad is None for p in model.get_submodule(begin).parameters())
        # Reference: the branch as a constant that is added.
        plain.get_submodule(begin).register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    plain(images).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, theirs[name].grad), name


def test_what_is_skipped_is_not_saved_and_not_computed_backward() -> None:
    full, step = predict(CONFIG.with_method("full")), predict(CONFIG.with_method(InStep(CONFIG.how, SKIPPED)))
    saved = {row.operation for row in step if row.kind == "saved"}
    assert not any(name.startswith(("blocks.1.attn", "blocks.1.norm1", "blocks.2.mlp")) for name in saved)
    assert any(name.startswith("blocks.1.mlp") for name in saved)
    assert step.saved_bytes < full.saved_bytes and step.train_flops < full.train_flops
    assert step.forward_flops == full.forward_flops
    assert step.optimizer_bytes == full.optimizer_bytes  # what rests is remembered


def test_as_many_are_skipped_in_each_step_if_that_is_asked() -> None:
    model, how = build(CONFIG), DropBP(0.5, "count")
    assert how.count(4) == 4
    for done in range(5):
        assert len(how.choose(model, done, 5).skips) == 4
    torch.manual_seed(0)
    each = [len(DropBP(0.5).choose(model, done, 5).skips) for done in range(200)]
    assert len(set(each)) > 1 and 3.5 < sum(each) / 200 < 4.5


def test_a_step_of_each_may_skip_nothing_and_one_of_count_holds_less() -> None:
    full = predict(CONFIG.with_method("full"))
    assert predict(CONFIG).saved_bytes == full.saved_bytes
    assert predict(CONFIG.with_method("full+dropbp(draw='count')")).saved_bytes < full.saved_bytes
    assert len(steps_of(CONFIG).expected) == 16


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropbp(rate=1.0)", "rate must be at least 0 and below 1"),
        ("dropbp(rate=-0.1)", "rate must be at least 0 and below 1"),
        ("dropbp(draw='some')", "each.*count"),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_method(text)


def test_a_shape_lists_branches_in_the_models_order() -> None:
    shape = DropBP().steps(12).shape(("blocks.10.mlp", "blocks.2.mlp", "blocks.2.attn"))
    assert shape.skips == ("blocks.2.attn", "blocks.2.mlp", "blocks.10.mlp")
    assert isinstance(shape, Shape) and shape.rests[:3] == ("blocks.2.norm1", "blocks.2.attn", "blocks.2.ls1")
