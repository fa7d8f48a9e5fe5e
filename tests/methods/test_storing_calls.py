"""Traced models that pack what their calls keep: predictions against real steps, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import parse_method
from bsr_explorer.methods.storing_calls import ByCall
from bsr_explorer.prediction import predict
from bsr_explorer.storages import Quantized, Sparse
from bsr_explorer.storages.by_image import ByImage
from bsr_explorer.tape import DENSE
from tests.formats import every_way

SMALL = "tests.models.traced.small:build"


def sums(ledger: Ledger) -> tuple[int, int, int]:
    return ledger.saved_bytes, ledger.train_flops, ledger.peak_bytes


PACKED = [
    "full+mesa(ema=0)",
    "full+mesa(faithful=False)+offload",
    "last(k=2)+backrazor",
    "bitfit+mesa(ema=0)",
]


@every_way
@pytest.mark.parametrize("method", PACKED)
def test_what_calls_keep_is_packed_to_the_byte(method: str, precision: str, attention: str) -> None:
    config = Config(
        "deit_tiny_distilled_patch16_224", 32, 10, 2, method=method, precision=precision, attention=attention
    )
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize(
    "method", ["full+mesa(ema=0)", "full+backrazor", "last(k=1)+backrazor(faithful=False)"]
)
def test_and_of_convolutions_and_batch_norms(method: str, precision: str) -> None:
    for model in (SMALL, "mobilenetv3_small_100"):
        config = Config(model, 32, 10, 3, method=method, precision=precision)
        assert sums(predict(config)) == sums(measure(config))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method", ["full+mesa(ema=0)", "last(k=2)+backrazor", "last(k=4)+mesa(faithful=False)"]
)
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize(
    "model", ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "convnextv2_atto"]
)
def test_and_of_families(model: str, precision: str, method: str) -> None:
    config = Config(model, 224, 10, 2, method=method, precision=precision, attention="math", optimizer="sgd")
    predicted, measured = predict(config), measure(config)
    assert sums(predicted)[:2] == sums(measured)[:2]
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)


def test_a_packing_that_loses_nothing_changes_no_gradient() -> None:
    """Back Razor that gives nothing up, in 32 bits."""
    found = []
    for method in ("full", "full+backrazor(ratio=0, values='fp32', gelu='dense')"):
        torch.manual_seed(0)
        config = Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method, attention="math")
        model = build(config, pretrained=False).train()
        torch.manual_seed(1)
        logits = model(torch.randn(2, 3, 32, 32))
        logits = logits[0] if isinstance(logits, tuple) else logits
        logits.square().sum().backward()
        found.append((logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, gradients), (packed, same) = found
    assert torch.equal(plain, packed)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, same[name]), name


def test_in_few_bits_gradients_are_near() -> None:
    found = []
    for method in ("full", "full+mesa(ema=0, groups='channels')"):
        torch.manual_seed(0)
        model = build(Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method), pretrained=False)
        torch.manual_seed(1)
        logits = model.train()(torch.randn(2, 3, 32, 32))
        logits = logits[0] if isinstance(logits, tuple) else logits
        logits.square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    error = float((found[1] - found[0]).norm() / found[0].norm())
    assert 0 < error < 0.05


def test_without_a_graph_nothing_is_packed() -> None:
    model = build(Config(SMALL, 16, 10, 2, method="full+mesa(ema=0)"), pretrained=False).eval()
    plain = build(Config(SMALL, 16, 10, 2, method="full"), pretrained=False).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("full+mesa", "ema=0"),
        ("full+approxbp", "choose checkpoint"),
        ("full+msln", "choose checkpoint"),
        ("full+mesa(ema=0)+checkpoint", "unpacked more than once"),
        ("lora+mesa(ema=0)", "beside what is added to its blocks"),
        ("linear+mesa(ema=0)", "nothing to store"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_a_line(method: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        predict(Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method))
    assert "\n" not in str(error.value)


def test_on_a_gpu_it_is_not_guessed() -> None:
    config = Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method="full+mesa(ema=0)", unknown="bound")
    with pytest.raises(UserError, match="no prediction is made for a GPU"):
        predict(replace(config, device="cuda", gpu="h100"))


def _by_call(method: str, place: str, heads: int = 3) -> ByCall:
    return ByCall(parse_method(method), 0, place, heads, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "place", "shape", "how"),
    [
        ("mesa(ema=0)", "residual", (2, 5, 12), Quantized(8, 3, -1, 0.0)),
        ("mesa(ema=0)", "qkv", (2, 5, 36), Quantized(8, 9, -1, 0.0)),
        ("mesa(ema=0)", "operand", (2, 3, 5, 4), Quantized(8, 3, 1, 0.0)),
        ("mesa(ema=0)", "softmax", (2, 3, 5, 5), Quantized(8, 3, 1, 0.0)),
        ("mesa(ema=0)", "operand", (6, 5, 4), Quantized(8, 1, -1, 0.0)),
        ("backrazor", "residual", (2, 5, 12), Sparse(0.9, "fp32")),
        ("backrazor", "qkv", (2, 5, 36), Sparse(0.9, parts=3)),
        ("backrazor", "softmax", (8, 3, 5, 5), ByImage(Sparse(0.9), 2)),
        ("backrazor(faithful=False)", "residual", (8, 5, 12), Quantized(4, 12, -1, 0.0)),
    ],
)
def test_how_a_place_is_packed_follows_from_its_shape(
    method: str, place: str, shape: tuple[int, ...], how: object
) -> None:
    assert _by_call(method, place).packing(shape) == how


def test_what_a_method_leaves_stays_as_it_is() -> None:
    assert _by_call("backrazor(gelu='dense')", "hidden").fitting((2, 5, 12)) is DENSE


def test_what_blocks_share_is_no_part_of_them() -> None:
    config = Config("tests.models.traced.small:sharing", 16, 10, 2, method="full+mesa(ema=0)")
    assert sums(predict(config)) == sums(measure(config))
