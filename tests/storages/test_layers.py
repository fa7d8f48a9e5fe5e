"""Whole models whose blocks pack: the same outside, in every mode that autograd and autocast have."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import GluMlp
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bsr_explorer.methods import parse_method
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.storages.keeper import Keeper

METHODS = ["mesa", "mesa(faithful=False)", "backrazor(ratio=0.5)", "backrazor(faithful=False)"]
every_method = pytest.mark.parametrize("method", METHODS)
EXACT = "backrazor(ratio=0.0, values='fp32', gelu='dense')"

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(3)


def model(method: str = "full", attention: str = "fused", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(
        **{
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 24,
            "depth": 2,
            "num_heads": 3,
            "num_classes": 5,
            **options,
        }
    )
    explicit = any(getattr(part, "explicit_softmax", False) for part in _parts(method))
    use_attention_path(net, "math" if explicit else attention)
    return parse_method(method).apply(net).train()


def _parts(method: str) -> tuple[Any, ...]:
    how = parse_method(method)
    return getattr(how, "parts", (how,))


def like(method: str, **options: Any) -> nn.Module:
    """The model with the same attention, and nothing packed."""
    explicit = any(getattr(part, "explicit_softmax", False) for part in _parts(method))
    return model("full", "math" if explicit else "fused", **options)


def gradients(net: nn.Module, autocast: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
        loss = F.cross_entropy(net(IMAGES), LABELS)
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert found.keys() == exact.keys()
    square = sum(float((found[name] - g).square().sum()) for name, g in exact.items())
    return float((square / sum(float(g.square().sum()) for g in exact.values())) ** 0.5)


@every_method
@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"mlp_layer": GluMlp}], ids=str)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_forward_is_the_plain_models_to_the_bit(
    method: str, options: dict[str, Any], autocast: torch.dtype | None
) -> None:
    if options.get("mlp_layer") is GluMlp:
        options = {"mlp_layer": _gated}
    with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
        assert torch.equal(model(method, **options)(IMAGES), like(method, **options)(IMAGES))


def _gated(**kwargs: Any) -> nn.Module:
    return GluMlp(**{**kwargs, "act_layer": nn.SiLU, "gate_last": False})


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}], ids=str)
def test_where_nothing_is_lost_gradients_are_autograds_own(options: dict[str, Any]) -> None:
    ours, plain = gradients(model(EXACT, **options)), gradients(like(EXACT, **options))
    for name, gradient in plain.items():
        assert torch.equal(ours[name], gradient), name


@pytest.mark.parametrize(("method", "most"), zip(METHODS, (0.1, 0.05, 0.8, 0.6), strict=True))
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_gradients_are_near_the_exact_ones(method: str, most: float, autocast: torch.dtype | None) -> None:
    assert 0 < error(gradients(model(method), autocast), gradients(like(method))) < most


@every_method
def test_without_a_graph_nothing_is_packed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, plain = model(method), like(method)
    monkeypatch.setattr(Keeper, "keep", lambda self, x: pytest.fail("packed"))
    with torch.no_grad():
        assert torch.equal(net(IMAGES), plain(IMAGES))
    with torch.inference_mode():
        assert torch.equal(net.eval()(IMAGES), plain.eval()(IMAGES))


@every_method
def test_gradients_in_evaluation_mode_leave_running_ranges_alone(method: str) -> None:
    net = model(method).eval()
    before = {name: b.clone() for name, b in net.named_buffers()}
    gradients(net)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]) or (buffer.isnan() == before[name].isnan()).all()


@every_method
def test_gradients_add_up_over_passes(method: str) -> None:
    net = model(method)
    torch.manual_seed(2)
    one, two = (gradients(net)[name] for name in ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.weight"))
    net = model(method)
    torch.manual_seed(2)
    net.zero_grad()
    for _ in range(2):
        F.cross_entropy(net(IMAGES), LABELS).backward()
    torch.testing.assert_close(dict(net.named_parameters())["blocks.0.mlp.fc1.weight"].grad, one + two)


@every_method
def test_two_forward_passes_before_a_backward_pass(method: str) -> None:
    net = model(method)
    torch.manual_seed(2)
    alone = gradients(net)
    net = model(method)
    torch.manual_seed(2)
    loss = F.cross_entropy(net(IMAGES), LABELS)
    net(50 * IMAGES)
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert torch.equal(p.grad, alone[name]), name


def test_parameters_keep_their_names() -> None:
    plain, packed = model().state_dict(), model("mesa").state_dict()
    more = packed.keys() - plain.keys()
    assert plain.keys() <= packed.keys()
    assert all(name.rpartition(".")[2] == "running" for name in more)
    assert len(more) == 2 * (
        2 + 4 + 2 + 1
    )  # norms, linear layers, attention's qkv and softmax, GELU; two blocks


def test_ranges_come_back_from_a_checkpoint() -> None:
    net = model("mesa")
    gradients(net)
    other = model("mesa")
    other.load_state_dict(net.state_dict())
    torch.manual_seed(6)
    expected = gradients(net)
    torch.manual_seed(6)
    for name, gradient in gradients(other).items():
        assert torch.equal(gradient, expected[name])


def test_a_recomputed_block_packs_once_and_looks_once() -> None:
    net = model("checkpoint+mesa")
    packed: list[tuple[int, ...]] = []
    for keeper in (module for module in net.modules() if isinstance(module, Keeper)):
        inner = keeper.packing.pack

        def pack(x: torch.Tensor, running: Any = None, inner: Any = inner) -> Any:
            packed.append(tuple(x.shape))
            return inner(x, running)

        object.__setattr__(keeper.packing, "pack", pack)
    gradients(net)
    assert len(packed) == sum(isinstance(module, Keeper) for module in net.modules())
