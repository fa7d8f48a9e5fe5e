"""LoRA and its kin beside PEFT's own modules: the same weights give the same logits and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.trained import peft as ours

peft = pytest.importorskip("peft", reason="PEFT is not installed")

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.thorough]

CONFIG = Config("toy", 48, 5, 2)
IMAGES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([1, 4])

Pairs = Iterator[tuple[nn.Parameter, nn.Parameter]]
"""A parameter of this package's model, and the one of PEFT's model that plays its part."""


def _plain() -> nn.Module:
    return build(CONFIG.with_method("full"), seed=1)


def _moved(method: str) -> nn.Module:
    """A model whose own parameters are not those that they begin with."""
    config = CONFIG.with_method(method)
    model = build(config, seed=1)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if config.how.is_own(name):  # type: ignore[attr-defined]
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def _low_rank(model: nn.Module, theirs: nn.Module) -> Pairs:
    for name, layer in theirs.named_modules():
        if hasattr(layer, "lora_A") and len(layer.lora_A):
            own = model.get_submodule(name)
            for part in ("lora_A", "lora_B"):
                yield getattr(own, part).weight, getattr(layer, part)["default"].weight
            if layer.use_dora["default"]:
                magnitude = layer.lora_magnitude_vector["default"].weight
                yield own.lora_magnitude_vector, magnitude


def _shared(model: nn.Module, theirs: nn.Module) -> Pairs:
    for name, layer in theirs.named_modules():
        if hasattr(layer, "vera_lambda_b"):
            own = model.get_submodule(name)
            shared: Any = layer
            key = next(iter(dict(model.vera_A)))  # type: ignore[call-overload]
            with torch.no_grad():
                shared.vera_A["default"].copy_(model.vera_A[key])  # type: ignore[index]
                shared.vera_B["default"].copy_(model.vera_B[key])  # type: ignore[index]
            for part in ("vera_lambda_d", "vera_lambda_b"):
                yield getattr(own, part).gamma, getattr(shared, part)["default"]


CASES: dict[str, tuple[Callable[[], Any], Callable[[nn.Module, nn.Module], Pairs]]] = {
    "lora(r=3, on=('qkv', 'proj', 'fc1', 'fc2'), alpha=6)": (
        lambda: peft.LoraConfig(r=3, lora_alpha=6, modules_to_save=["head"], **_targets()),
        _low_rank,
    ),
    "dora(r=3, on=('qkv', 'proj', 'fc1', 'fc2'), alpha=6)": (
        lambda: peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, modules_to_save=["head"], **_targets()),
        _low_rank,
    ),
    "vera(r=5, on=('qkv',))": (
        lambda: peft.VeraConfig(r=5, target_modules=r"blocks\.\d+\.attn\.qkv", modules_to_save=["head"]),
        _shared,
    ),
}


def _targets() -> dict[str, str]:
    return {"target_modules": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"}


@pytest.mark.parametrize("method", CASES)
def test_logits_and_gradients_are_theirs(method: str) -> None:
    settings, pairs = CASES[method]
    model, theirs = _moved(method), peft.get_peft_model(_plain(), settings())
    matched = list(pairs(model, theirs.base_model.model))
    assert len(matched) == sum(1 for name, p in model.named_parameters() if p.requires_grad) - 2  # the head's
    with torch.no_grad():
        for own, their in matched:
            their.copy_(own.reshape(their.shape))
    expected, found = theirs(IMAGES), model(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, _plain()(IMAGES), atol=1e-2)
    for logits in (expected, found):
        F.cross_entropy(logits, LABELS).backward()
    for own, their in matched:
        assert own.grad is not None
        assert their.grad is not None
        torch.testing.assert_close(own.grad, their.grad.reshape(own.shape), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "lora_fa"])
def test_peft_loads_what_is_saved(name: str, tmp_path: Path) -> None:
    config = CONFIG.with_method(f"{name}(r=2, on=('qkv', 'proj'), alpha=6)")
    model = _moved(str(config.method))
    assert ours.save(tmp_path, model, config)
    loaded = peft.PeftModel.from_pretrained(_plain(), str(tmp_path / ours.FOLDER))
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IMAGES), model.eval()(IMAGES), rtol=1e-5, atol=1e-5)


def test_factors_are_theirs_where_queries_have_none() -> None:
    model, layers = _moved("ia3"), r"blocks\.\d+\.(attn\.qkv|mlp\.fc2)"
    settings = peft.IA3Config(
        target_modules=layers, feedforward_modules=r"blocks\.\d+\.mlp\.fc2", modules_to_save=["head"]
    )
    theirs = peft.get_peft_model(_plain(), settings)
    matched = []
    for name, layer in theirs.base_model.model.named_modules():
        if hasattr(layer, "ia3_l") and len(layer.ia3_l):
            own, their = model.get_submodule(name).ia3.gamma, layer.ia3_l["default"]
            matched.append((own, their))
            with torch.no_grad():
                their.view(-1)[-len(own) :].copy_(own)  # the first third is the queries'
    assert len(matched) == 8
    expected, found = theirs(IMAGES), model(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for logits in (expected, found):
        F.cross_entropy(logits, LABELS).backward()
    for own, their in matched:
        torch.testing.assert_close(own.grad, their.grad.view(-1)[-len(own) :], rtol=1e-4, atol=1e-6)
