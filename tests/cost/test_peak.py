"""The estimated peak: by hand on a head alone, and beside the live storages of a real step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.cost.peak import estimate_peak, step_ledger
from bsr_explorer.measurement.step import measure_step
from bsr_explorer.methods import BitFit, Bsr, Full, Linear, Method
from bsr_explorer.methods.surgery import use_attention_path
from bsr_explorer.models.geometry import geometry, read_geometry
from bsr_explorer.models.vit import step_tape
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


def _head(optimizer: str) -> int:
    """2 images of 3 numbers, 5 classes, weight and bias."""
    ops = (
        Op("head", "linear", None, ("images",), "out", {"weight": "w", "bias": "b"}),
        Op("loss", "cross_entropy", None, ("out", "labels"), "loss"),
    )
    inputs = (
        Tensor("images", (2, 3), "images", role="input"),
        Tensor("labels", (2,), "labels", "int64", role="input"),
    )
    parameters = {"w": Parameter("w", (5, 3), None), "b": Parameter("b", (5,), None)}
    return estimate_peak(Tape(inputs, parameters, ops), optimizer)


WEIGHTS, BATCH, SCORES = (15 + 5) * 4, 2 * 3 * 4 + 2 * 8, 2 * 5 * 4


def test_a_head_peaks_in_backward_with_its_gradients() -> None:
    assert _head("sgd") == WEIGHTS + BATCH + WEIGHTS + SCORES


def test_the_optimizers_state_stands_there_all_the_time() -> None:
    assert _head("sgd_momentum") - _head("sgd") == WEIGHTS
    assert _head("adamw") - _head("sgd") == 2 * WEIGHTS + 2 * 4


def test_without_a_gradient_tensors_are_let_go_once_read() -> None:
    """x → y → z: two of three are alive at once."""
    ops = tuple(Op(f"act{i}", "gelu", None, (f"t{i}",), f"t{i + 1}") for i in range(3))
    assert estimate_peak(Tape((Tensor("t0", (10,), "t0", role="input"),), {}, ops), "sgd") == 40 + 2 * 40


@settings(max_examples=20)
@given(st.sets(st.integers(0, 11)), st.sampled_from([{}, {3: 0.5}]), st.sampled_from(["fused", "math"]))
def test_a_peak_is_at_least_what_stands_and_what_is_saved(
    blocks: set[int], keep: dict[int, float], attention: str
) -> None:
    tape = Bsr(tuple(blocks), keep).rewrite(step_tape(geometry("deit_t", 64), 4, attention))
    step = step_ledger(tape, "adamw")
    assert step.peak_bytes >= step.held_bytes - step.gradient_bytes
    assert step.peak_is == "estimate"


def _ratio(method: Method, attention: str, depth: int) -> float:
    """Estimated over measured, where activations are most of it."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=48, patch_size=8, embed_dim=48, depth=depth, num_heads=2, num_classes=10
    )
    tape = method.rewrite(step_tape(read_geometry(model), 8, attention))
    use_attention_path(model, attention)
    method.apply(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images, labels = torch.randn(8, 3, 48, 48), torch.zeros(8, dtype=torch.int64)
    measured = measure_step(model, images, labels, optimizer).ledger
    return step_ledger(tape, "sgd").peak_bytes / measured.peak_bytes


@pytest.mark.parametrize("method", [Full(), BitFit(), Bsr((1, 3), {}), Bsr((1, 3), {1: 0.5})], ids=str)
def test_an_estimate_is_near_the_live_storages(method: Method) -> None:
    assert _ratio(method, "math", depth=4) == pytest.approx(1, abs=0.02)


def test_an_estimate_without_a_graph_misses_what_callers_still_hold() -> None:
    """A norm's output lives until its branch returns: 10 n at the second Linear layer, of which 9 are seen."""
    assert 0.85 < _ratio(Linear(), "math", depth=4) < 1


def test_an_estimate_is_near_the_live_storages_of_fused_attention() -> None:
    assert _ratio(Full(), "fused", depth=12) == pytest.approx(1, abs=0.02)
