"""The rule table against real steps: the same saved bytes, operation by operation, FLOPs and peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import SwiGLUPacked
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.cost.step import activation_rows, saved
from bsr_explorer.finetune.measure import measure
from bsr_explorer.ledger import Ledger, Row
from bsr_explorer.methods import BitFit, Bsr, Checkpoint, Full, Last, Linear, Method, Offload
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.operations.rules import RULES
from bsr_explorer.prediction import predict
from bsr_explorer.tape import SHAPES, Op, Parameter, Tape, Tensor

Both = Callable[..., tuple[Ledger, Ledger]]
"""The fixture of that name."""

SWIGLU: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4}


def _check(predicted: Ledger, measured: Ledger) -> None:
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize(
    ("model", "image_size", "batch", "method"),
    [
        ("deit_t", 64, 1, "bsr"),
        ("deit_t", 64, 2, "bsr(blocks=(1, 11), keep={0: 0.3, 11: 0.5}, fuse=False, norm=False)"),
        ("vit_small_patch14_dinov2", 56, 2, "bsr(blocks=(3, 7), keep={3: 0.5})"),  # LayerScale
        ("vit_small_patch14_reg4_dinov2", 56, 1, "bsr(blocks=(10,), keep={2: 0.5, 8: 0.5})"),  # registers
        ("vit_wee_patch16_reg1_gap_256", 64, 2, "last(2)"),  # mean pooling, fc_norm, no class token
        ("vit_xsmall_patch16_clip_224", 64, 2, "bitfit"),  # a norm before the blocks
    ],
)
def test_models_of_timm(model: str, image_size: int, batch: int, method: str, attention: str) -> None:
    config = Config(model, image_size, 10, batch, attention=attention, method=method)
    _check(predict(config), measure(config))


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", [Full(), Bsr((1,), {0: 0.5, 1: 0.5})])
def test_swiglu(both: Both, method: Method, batch: int, attention: str) -> None:
    _check(*both(method, attention, batch, **SWIGLU))


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("batch", [1, 2])
def test_one_head(both: Both, batch: int, attention: str) -> None:
    _check(*both(Full(), attention, batch, num_heads=1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(both: Both, optimizer: str) -> None:
    _check(*both(Last(1), optimizer=optimizer))


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Options of a small vision transformer, with any of the parts that the tape can say."""
    class_token = draw(st.booleans())
    options: dict[str, Any] = {
        "img_size": draw(st.sampled_from([8, 16, 32])),
        "embed_dim": 12,
        "num_heads": draw(st.sampled_from([1, 2, 3])),
        "depth": draw(st.integers(1, 3)),
        "class_token": class_token,
        "global_pool": draw(st.sampled_from(["token", "avg"] if class_token else ["avg"])),
        "reg_tokens": draw(st.sampled_from([0, 2])),
        "no_embed_class": draw(st.booleans()) or not class_token,
        "pos_embed": draw(st.sampled_from(["learn", "none"])),
        "init_values": draw(st.sampled_from([None, 1e-4])),
    }
    for flag in ("qkv_bias", "proj_bias", "pre_norm", "final_norm"):
        options[flag] = draw(st.booleans())
    return {**options, **(SWIGLU if draw(st.booleans()) else {})}


@st.composite
def methods(draw: st.DrawFn, depth: int, class_token: bool) -> Method:
    """A method that fits a model."""
    blocks = st.integers(0, depth - 1)
    rates = st.sampled_from([0.1, 0.4, 0.5, 0.9, 1.0])
    bsr = st.builds(
        Bsr,
        blocks=st.sets(blocks).map(tuple),
        keep=st.dictionaries(blocks, rates) if class_token else st.just({}),
        fuse=st.booleans(),
        norm=st.booleans(),
    )
    last = st.integers(1, depth).map(Last)
    method: Method = draw(bsr | bsr | last | st.sampled_from([Full(), Linear(), BitFit()]))
    chosen = st.none() | st.sets(blocks).map(tuple)
    for keeping in (Checkpoint, Offload):
        if draw(st.integers(0, 3)) == 0:
            method = method + draw(st.builds(keeping, chosen))
    return method


@settings(max_examples=60)
@given(
    st.data(),
    models(),
    st.integers(1, 3),
    st.sampled_from(["fused", "math"]),
    st.sampled_from(list(PRECISIONS)),
    st.sampled_from([1, 1, 2]),
    st.booleans(),
)
def test_any_parts_any_method(
    both: Both,
    data: st.DataObject,
    options: dict[str, Any],
    batch: int,
    attention: str,
    precision: str,
    micro_batches: int,
    set_to_none: bool,
) -> None:
    method = data.draw(methods(options["depth"], options["class_token"]))
    setup = {"micro_batches": micro_batches, "set_to_none": set_to_none}
    _check(*both(method, attention, batch, precision, **setup, **options))


def test_every_kind_has_a_rule_and_a_shape() -> None:
    assert set(RULES) == set(SHAPES)


def _linear(weight: bool, bias: bool, live: bool) -> set[str]:
    """What a Linear layer keeps of x (2, 3)."""
    parameters = {
        "w": Parameter("w", (4, 3), None, trains=weight),
        "b": Parameter("b", (4,), None, trains=bias),
    }
    op = Op("fc", "linear", None, ("x",), "y", {"weight": "w", "bias": "b"})
    return {storage for _, _, storage, _ in saved(Tape((Tensor("x", (2, 3), "x"),), parameters, (op,)), live)}


def test_a_linear_layer_keeps_its_input_only_for_its_weight() -> None:
    assert _linear(weight=True, bias=False, live=False) == {"x"}
    assert _linear(weight=False, bias=True, live=False) == set()
    assert _linear(weight=False, bias=False, live=True) == set()


def test_a_frozen_norm_keeps_its_input_once_a_gradient_passes() -> None:
    parameters = {"w": Parameter("w", (3,), None, trains=False)}
    op = Op("norm", "layer_norm", None, ("x",), "y", {"weight": "w"})
    tape = Tape((Tensor("x", (2, 5, 3), "x"),), parameters, (op,))
    assert {(storage, size) for _, _, storage, size in saved(tape, live_inputs=True)} == {
        ("x", 2 * 5 * 3 * 4),
        ("norm:mean", 2 * 5 * 4),
        ("norm:rstd", 2 * 5 * 4),
    }
    assert list(saved(tape)) == []


@pytest.mark.parametrize("faithful", [True, False])
def test_a_drop_keeps_32_bit_positions_and_the_weights_of_what_it_fuses(faithful: bool) -> None:
    attrs = {"prefix": 1, "heads": 1, "path": "fused", "detached": not faithful}
    ops = (
        Op("attn", "class_attention", 0, ("qkv",), "scores", attrs=attrs),
        Op("drop", "drop_tokens", 0, ("x", "scores"), "y", attrs={"prefix": 1, "keep": 0.5, "fuse": True}),
    )
    inputs = (Tensor("x", (2, 9, 3), "x"), Tensor("qkv", (2, 9, 9), "qkv"))
    kept = {storage: size for _, _, storage, size in saved(Tape(inputs, {}, ops), live_inputs=True)}
    whole = {"drop:positions": 2 * 8 * 4, "drop:weights": 2 * 4 * 4}
    if faithful:  # the dropped tokens, and of the class token's attention its query, itself and qkv
        whole |= {"drop:dropped": 2 * 4 * 3 * 4, "attn:query": 2 * 3 * 4, "attn:softmax": 2 * 9 * 4}
        whole["qkv"] = 2 * 9 * 9 * 4
    assert kept == whole


def test_the_class_token_holds_the_whole_norm() -> None:
    ops = (
        Op("", "select_token", None, ("x",), "pooled"),
        Op("head", "linear", None, ("pooled",), "y", {"weight": "w"}),
    )
    tape = Tape((Tensor("x", (2, 5, 3), "x"),), {"w": Parameter("w", (4, 3), None)}, ops)
    assert [(name, size) for _, name, _, size in saved(tape)] == [("head", 2 * 5 * 3 * 4)]


@pytest.mark.parametrize(
    ("weight", "live", "backward"),
    [(True, True, 96), (True, False, 48), (False, True, 48), (False, False, 0)],
)
def test_a_linear_backward_is_a_product_for_the_weight_and_one_for_the_input(
    weight: bool, live: bool, backward: int
) -> None:
    parameters = {"w": Parameter("w", (4, 3), None, trains=weight)}
    tape = Tape(
        (Tensor("x", (2, 3), "x"),), parameters, (Op("fc", "linear", None, ("x",), "y", {"weight": "w"}),)
    )
    rows = list(activation_rows(tape, live))
    assert Row(None, "fc", "forward", flops=48) in rows
    assert Row(None, "fc", "backward", flops=backward) in rows
