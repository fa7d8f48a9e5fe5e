"""Experts or gates of a mixture that do not train."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Freeze, parse_method
from bsr_explorer.prediction import predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

MODEL = "moe_vit(toy, blocks=(1, 3), experts=4, top=2{})"
BSR = "bsr(blocks=(1, 3), keep={0: 0.5, 2: 0.5}, fuse=True)"


def config(method: str, options: str = "", **given: object) -> Config:
    """Of few images."""
    return Config(MODEL.format(options), 48, 10, 2, method=method, optimizer="sgd", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("'experts'", ("gate",)),
        ("'gate'", ("fc1", "fc2")),
        ("'experts', 'gate'", ()),
        ("", ("fc1", "fc2", "gate")),
    ],
)
def test_the_part_does_not_train_and_the_rest_does(what: str, left: tuple[str, ...]) -> None:
    for method in (f"full+freeze({what})", f"freeze({what})+blocks(1, 3)", f"{BSR}+freeze({what})"):
        model = build(config(method))
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {name.split(".")[3] for name in trained if ".mlp." in name and "1.mlp" in name} == {*left}
        tape = tape_of(config(method))
        assert {name for name, p in tape.parameters.items() if p.trains} == trained
        assert {"blocks.1.norm2.weight", "head.weight"} <= trained


@pytest.mark.parametrize("what", ["'experts'", "'gate'", "'experts', 'gate'"])
@pytest.mark.parametrize("options", ["", ", capacity=1.25"])
@pytest.mark.parametrize("method", ["full", BSR, "full+checkpoint", "lora"])
def test_a_step_is_as_predicted(what: str, options: str, method: str) -> None:
    for precision in ("fp32", "bf16", "amp_bf16")[: 3 if method == BSR else 1]:
        here = config(f"{method}+freeze({what})", options, precision=precision)
        predicted, measured = predict(here), measure(here)
        assert predicted.saved_bytes == measured.saved_bytes
        assert predicted.train_flops == measured.train_flops
        assert predicted.held_bytes == measured.held_bytes
        assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes


def test_frozen_experts_keep_less_and_have_no_gradients() -> None:
    trained, frozen = predict(config(BSR)), predict(config(f"{BSR}+freeze('experts')"))
    assert frozen.saved_bytes < trained.saved_bytes
    assert frozen.train_flops < trained.train_flops
    experts = sum(
        p.numel
        for name, p in tape_of(config(BSR)).parameters.items()
        if ".mlp.fc" in name and "3.mlp" in name
    )
    assert trained.gradient_bytes - frozen.gradient_bytes == 4 * 2 * experts


def test_a_gradient_passes_through_frozen_experts() -> None:
    torch.manual_seed(0)
    model = build(config("full+freeze('experts')")).train()
    loss = model(torch.randn(2, 3, 48, 48)).sum()
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(grads[f"blocks.1.mlp.{name}.weight"] is None for name in ("fc1", "fc2"))
    below, gate = grads["blocks.1.norm2.weight"], grads["blocks.1.mlp.gate.route.weight"]
    assert below is not None and gate is not None
    assert bool(below.any()) and bool(gate.any())


@pytest.mark.parametrize(
    ("model", "method", "why"),
    [
        ("moe_vit(toy, blocks=(1,), experts=4, top=2)", "full+freeze('expert')", "did you mean 'experts'"),
        ("toy", "full+freeze('experts')", "the model has none; leave it out"),
        ("moe_vit(toy, blocks=(1,), experts=4, top=2)", "freeze('gate')+freeze('experts')", "stands twice"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model: str, method: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        predict(Config(model, 48, 10, 2, method=method))
    assert "\n" not in str(refused.value) and str(refused.value).startswith("--method: freeze")


def test_what_lets_nothing_train_is_refused() -> None:
    tape = tape_of(config("full")).train_only(lambda p: ".gate." in p.name)
    with pytest.raises(UserError, match=r"with freeze\('gate'\) nothing trains"):
        Freeze(("gate",)).rewrite(tape)
    model = build(config("full"))
    for name, p in model.named_parameters():
        p.requires_grad_(".gate." in name)
    with pytest.raises(UserError, match=r"with freeze\('gate'\) nothing trains"):
        Freeze(("gate",)).apply(model)


def test_it_is_written_as_it_is_read() -> None:
    assert str(parse_method("freeze('gate')+bsr(blocks=(1,), keep={})")) == (
        "bsr(blocks=(1,), keep={}, fuse=True)+freeze('gate')"
    )
    assert str(Freeze(("gate", "experts"))) == "freeze('experts', 'gate')"


def test_nothing_frozen_is_full_fine_tuning() -> None:
    assert Freeze().canonical(4) == parse_method("full")
    assert predict(config("bsr(blocks=(1,), keep={})+freeze")) == predict(config("bsr(blocks=(1,), keep={})"))
