"""Traced tapes against real steps, and against the tape of plain vision transformers that is written by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.ledger import Ledger
from bsr_explorer.models.architecture import ARCHITECTURES
from bsr_explorer.models.traced.architecture import Traced
from bsr_explorer.models.traced.tape import number_format
from bsr_explorer.prediction import predict

SMALL = "tests.models.traced.small:build"


def sums(ledger: Ledger) -> dict[str, int]:
    return {
        "saved": ledger.saved_bytes,
        "flops": ledger.train_flops,
        "peak": ledger.peak_bytes,
        "parameters": ledger.parameter_bytes,
        "gradients": ledger.gradient_bytes,
        "optimizer": ledger.optimizer_bytes,
    }


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(
    "method", ["full", "linear", "last(k=1)", "bitfit", "blocks(0)", "full+checkpoint", "last(k=2)+offload"]
)
def test_a_strange_model_is_predicted_to_the_byte(method: str, batch_size: int) -> None:
    config = Config(SMALL, 16, 10, batch_size, method=method)
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize(
    "method", ["full", "linear", "last(k=1)", "bitfit", "blocks(0)", "full+checkpoint", "last(k=2)+offload"]
)
def test_and_so_it_is_under_autocast(method: str) -> None:
    config = Config(SMALL, 16, 10, 4, method=method, precision="amp_bf16")
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize("bound", ["recurrent", "turned"])
@pytest.mark.parametrize("method", ["full", "linear", "full+checkpoint"])
def test_a_bound_is_one(bound: str, method: str) -> None:
    config = Config(f"tests.models.traced.small:{bound}", 16, 10, 3, method=method, unknown="bound")
    predicted, measured = predict(config), measure(config)
    for figure in ("saved_bytes", "peak_bytes", "train_flops", "gradient_bytes", "parameter_bytes"):
        said, true = getattr(predicted, figure), getattr(measured, figure)
        assert said <= true if figure in predicted.at_least else said == true, figure
    if method == "full":
        assert "train_flops" in predicted.at_least and len(predicted.unknown) == 1
    if (bound, method) == ("turned", "linear"):
        assert not predicted.unknown


def test_a_product_without_a_formula_and_a_workspace_leaves_bytes_exact() -> None:
    config = Config("tests.models.traced.small:dotted", 8, 10, 2, method="full", unknown="bound")
    predicted, measured = predict(config), measure(config)
    assert predicted.at_least == {"forward_flops", "train_flops"}
    assert (predicted.saved_bytes, predicted.peak_bytes) == (measured.saved_bytes, measured.peak_bytes)


def test_attention_of_torch_that_is_given_one_tensor_thrice() -> None:
    """It asks whether they are the same, and multiplies once then."""
    for method in ("full", "last(k=1)"):
        config = Config("tests.models.traced.small:attending", 16, 10, 2, method=method)
        predicted, measured = sums(predict(config)), sums(measure(config))
        assert predicted.pop("peak") >= measured.pop("peak")  # gradients that are views of fewer numbers
        assert predicted == measured


def test_what_nobody_asks_for_keeps_nothing_and_its_parameters_have_no_gradient() -> None:
    config = Config("tests.models.traced.small:beside", 8, 10, 4, method="full")
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize("method", ["full", "last(k=1)", "lora", "full+checkpoint", "adapter"])
def test_layers_of_timm_are_found_by_methods(method: str) -> None:
    config = Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method)
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize("method", ["full+velora", "full+asi", "last(k=2)+wtacrs+offload", "full+wasi"])
def test_what_linear_layers_read_is_packed(method: str) -> None:
    config = Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method)
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.parametrize(
    "method", ["lora", "lora(on=('qkv', 'fc2'))+checkpoint", "paca+offload", "full+velora", "full+wasi"]
)
def test_methods_stand_beside_what_was_traced_under_autocast(method: str) -> None:
    config = Config("deit_tiny_distilled_patch16_224", 32, 10, 2, method=method, precision="amp_bf16")
    assert sums(predict(config)) == sums(measure(config))


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["full+velora", "full+asi", "last(k=2)+wtacrs", "full+wasi+checkpoint"])
def test_and_so_it_is_in_windows(method: str) -> None:
    """Swin's layers read views: windows of an image's tokens."""
    config = Config("swin_tiny_patch4_window7_224", 224, 10, 1, method=method, optimizer="sgd")
    assert sums(predict(config)) == sums(measure(config))


def test_layers_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match=r"velora.* needs the layer attn.qkv of each block"):
        predict(Config(SMALL, 16, 10, 2, method="full+velora"))


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("method", ["full", "linear", "last(k=1)", "bitfit", "blocks(0, 2)"])
def test_both_tapes_of_a_plain_vision_transformer_are_one(
    method: str, attention: str, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(toy, 48, 10, 3, method=method, attention=attention)
    by_hand = predict(config)
    monkeypatch.setitem(ARCHITECTURES, "vit", _OfToys())
    from bsr_explorer import prediction

    prediction._predicted.cache_clear()
    traced = predict(config)
    prediction._predicted.cache_clear()
    assert sums(by_hand) == sums(traced)
    for kind in ("forward", "backward", "saved"):
        assert _by_operation(by_hand, kind) == _by_operation(traced, kind)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["fused", "math", "efficient"])
def test_both_tapes_are_one_on_a_gpu_that_is_not_here(
    precision: str, attention: str, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved and computed, operation by operation; of the peak, the trace's is a bound."""
    from bsr_explorer import prediction

    for method in ("full", "last(k=1)", "bitfit"):
        config = Config(
            *(toy, 48, 10, 3, precision),
            attention=attention,
            method=method,
            device="cuda",
            gpu="h100",
            unknown="bound",
        )
        prediction._predicted.cache_clear()
        by_hand = predict(config)
        with monkeypatch.context() as patched:
            patched.setitem(ARCHITECTURES, "vit", _OfToys())
            prediction._predicted.cache_clear()
            traced = predict(config)
        prediction._predicted.cache_clear()
        assert not by_hand.at_least and "peak_bytes" in traced.at_least
        assert traced.peak_bytes <= by_hand.peak_bytes
        for kind in ("forward", "backward", "saved"):
            assert _by_operation(by_hand, kind) == _by_operation(traced, kind)


class _OfToys(Traced):
    """Traces what has a tape by hand."""

    name = "vit"


def _by_operation(ledger: Ledger, kind: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for row in ledger.rows:
        if row.kind == kind:
            found[row.block, _place(row.operation)] += row.bytes + row.flops
    return +found


def _place(operation: str) -> str:
    """What timm calls a norm or its own sum, in one word: a saved tensor stands under the first that keeps it."""
    return "" if operation in ("patch_embed", "_pos_embed") else operation


def test_unknown_number_formats_are_named() -> None:
    with pytest.raises(UserError, match=r"torch\.complex64"):
        number_format(torch.complex64)


@pytest.mark.parametrize("method", ["full", "full+checkpoint"])
def test_norms_under_autocast_keep_statistics_in_32_bits(method: str) -> None:
    config = Config("convnext_atto", 32, 10, 2, method=method, precision="amp_bf16")
    assert sums(predict(config)) == sums(measure(config))
