"""Costs of blocks and steps: closed forms, independently measured figures, optimisers, and storages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.cost.step import Recorded, activation_rows, parameter_rows, saved
from bsr_explorer.ledger import ledger
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.step import block_tape
from bsr_explorer.prediction import predict
from bsr_explorer.tape import AtOnce, Op, Parameter, Storage, Tape, Tensor
from bsr_explorer.units import WIDTH

MIB = 2**20


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any block of any width; what stands around the blocks does not matter here."""
    heads = draw(st.integers(2, 16))
    width = heads * draw(st.integers(1, 64))
    return Geometry(
        name="any",
        image_size=224,
        num_classes=10,
        patch=16,
        channels=3,
        width=width,
        depth=1,
        heads=heads,
        hidden=width * draw(st.integers(1, 6)),
        mlp=draw(st.sampled_from(["gelu", "swiglu"])),
        class_token=True,
        register_tokens=0,
        position_embedding=True,
        embed_prefix=True,
        patch_bias=True,
        qkv_bias=draw(st.booleans()),
        proj_bias=draw(st.booleans()),
        layer_scale=draw(st.booleans()),
        pre_norm=False,
        final_norm="norm",
        pool="token",
    )


@given(
    geometries(), st.integers(2, 64), st.integers(1, 400), st.booleans(), st.sampled_from(["fused", "math"])
)
def test_a_block_keeps_what_the_closed_form_says(
    g: Geometry, batch: int, tokens: int, trains: bool, attention: str
) -> None:
    n, rows = batch * tokens * g.width, batch * tokens
    hidden = rows * g.hidden
    elements = 2 * n + 4 * rows  # norms: inputs, means and deviations
    elements += 3 * hidden if g.mlp == "swiglu" else hidden
    if attention == "fused":
        elements += 4 * n + rows * g.heads  # q, k, v, output, log-sum-exp
    else:
        elements += 3 * n + rows * g.heads * tokens  # q, k, v, softmax
    if trains:
        elements += 2 * n + hidden  # inputs of qkv, fc1, fc2
        elements += n if attention == "math" else 0  # input of proj, which fused attention keeps anyway
        elements += 2 * n if g.layer_scale else 0
    tape = block_tape(g, batch, tokens, attention).train_only(lambda p: trains)
    assert sum(size for _, _, _, size in saved(tape, live_inputs=True)) == 4 * elements


@given(geometries(), st.integers(2, 64), st.integers(1, 400))
def test_with_the_usual_mlp_it_is_16_n(g: Geometry, batch: int, tokens: int) -> None:
    plain = replace(g, hidden=4 * g.width, mlp="gelu", layer_scale=False)
    n = batch * tokens * g.width
    tape = block_tape(plain, batch, tokens, "fused")
    expected = 16 * n + 4 * batch * tokens + batch * g.heads * tokens
    assert sum(size for _, _, _, size in saved(tape)) == 4 * expected


@pytest.mark.parametrize("attention", ["fused", "math"])
@given(geometries(), st.integers(1, 8), st.integers(1, 400))
def test_a_frozen_block_below_everything_keeps_nothing(
    attention: str, g: Geometry, batch: int, tokens: int
) -> None:
    tape = block_tape(g, batch, tokens, attention).train_only(lambda p: False)
    rows = ledger(activation_rows(Recorded.of(tape)))
    assert (rows.saved_bytes, rows.flops_of("backward")) == (0, 0)


@given(geometries(), st.integers(1, 8), st.integers(1, 400), st.booleans(), st.booleans())
def test_a_blocks_flops_follow_from_its_products(
    g: Geometry, batch: int, tokens: int, trains: bool, fused: bool
) -> None:
    inner = g.hidden * (2 if g.mlp == "swiglu" else 1)
    linear = 2 * batch * tokens * (4 * g.width * g.width + g.width * (inner + g.hidden))
    attention = 4 * batch * tokens * tokens * g.width
    tape = block_tape(g, batch, tokens, "fused" if fused else "math").train_only(lambda p: trains)
    rows = ledger(activation_rows(Recorded.of(tape, live_inputs=True)))
    assert rows.forward_flops == linear + attention
    assert rows.flops_of("backward") == linear * (1 + trains) + (
        5 * attention // 2 if fused else 2 * attention
    )


@pytest.mark.parametrize(
    ("method", "gflops"),
    [
        ("full", 15.286),
        ("bsr(blocks=(0,), keep={}, head=False, norm=False)", 11.335),
        ("bsr(blocks=(11,), keep={}, head=False, norm=False)", 5.862),
    ],
)
def test_flops_of_vit_tiny(method: str, gflops: float) -> None:
    """torch counted these at 1000 classes, 2 images and fused attention: everything, or one block alone
    (norm and head frozen), trains."""
    step = predict(Config("vit_t", num_classes=1000, batch_size=2, method=method))
    assert round(step.train_flops / 1e9, 3) == gflops
    assert round(step.forward_flops / 1e9, 3) == 5.015


@pytest.mark.parametrize(
    ("method", "mib"),
    [
        ("full", 224.5),
        ("bsr(blocks=(0,), keep={}, head=False, norm=False)", 147.1),
        ("bsr(blocks=(11,), keep={}, head=False, norm=False)", 19.7),
        ("linear", 1.2),
    ],
)
def test_saved_bytes_of_vit_tiny(method: str, mib: float) -> None:
    """Measured with saved-tensor hooks at 1000 classes, 8 images and fused attention."""
    step = predict(Config("vit_t", num_classes=1000, batch_size=8, method=method))
    assert round(step.saved_bytes / MIB, 1) == mib


@pytest.mark.parametrize(("model", "mib"), [("vit_b", 133.32), ("deit_s", 66.68)])
def test_saved_bytes_of_full_fine_tuning(model: str, mib: float) -> None:
    """An image, explicit attention, as measured on the model of the authors of BSR."""
    step = predict(Config(model, num_classes=10, batch_size=32, attention="math", method="full"))
    assert round(step.saved_bytes / 32 / MIB, 2) == mib


@pytest.mark.parametrize(
    ("optimizer", "state"), [("sgd", 0), ("sgd_momentum", 12 * 4), ("adamw", 2 * 12 * 4 + 4)]
)
def test_an_optimizer_keeps_state_of_what_trains(optimizer: str, state: int) -> None:
    parameters = {"w": Parameter("w", (4, 3), None), "b": Parameter("b", (4,), None, trains=False)}
    step = ledger(parameter_rows(Tape((), parameters, ()), optimizer))
    assert (step.parameter_bytes, step.gradient_bytes, step.optimizer_bytes) == (64, 48, state)


@dataclass(frozen=True)
class Half(AtOnce):
    """Every element in two bytes: a storage that is not the package's own."""

    def bytes(self, shape: tuple[int, ...], dtype: str) -> int:
        """Half of fp32."""
        return math.prod(shape) * WIDTH[dtype] // 2


def _two_readers(how: Callable[[int], dict[str, Storage]]) -> list[tuple[str, int]]:
    """What two Linear layers that read x (2, 3), 24 bytes dense, keep, by the name of the layer."""
    ops = tuple(
        Op(f"fc{i}", "linear", None, ("x",), f"y{i}", {"weight": f"w{i}"}, stored=how(i)) for i in range(2)
    )
    parameters = {f"w{i}": Parameter(f"w{i}", (4, 3), None) for i in range(2)}
    tape = Tape((Tensor("x", (2, 3), "x"),), parameters, ops)
    return [(name, size) for _, name, _, size in saved(tape)]


def test_a_tensor_stored_alike_twice_is_held_once() -> None:
    assert _two_readers(lambda i: {}) == [("fc0", 24)]
    assert _two_readers(lambda i: {"x": Half()}) == [("fc0", 12)]


def test_a_tensor_stored_in_two_ways_is_held_twice() -> None:
    assert _two_readers(lambda i: {"x": Half()} if i else {}) == [("fc0", 24), ("fc1", 12)]


def test_a_storage_changes_only_the_tensor_that_it_names() -> None:
    assert _two_readers(lambda i: {"y": Half()}) == [("fc0", 24)]


def test_the_batch_is_not_saved_again() -> None:
    op = Op("fc", "linear", None, ("images",), "y", {"weight": "w"})
    images = Tensor("images", (2, 3), "images", role="input")
    assert list(saved(Tape((images,), {"w": Parameter("w", (4, 3), None)}, (op,)))) == []
