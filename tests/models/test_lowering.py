"""Number formats and kernels of a step."""

from __future__ import annotations

from collections import Counter

import pytest

from bsr_explorer.config import Config
from bsr_explorer.methods import parse_method
from bsr_explorer.models.base import Selection
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import drop_tokens, step_tape
from bsr_explorer.prediction import tape_of
from bsr_explorer.tape import Tape

BLOCKS = 12


def _lowered(precision: str, device: str = "cpu", attention: str = "fused", trains: bool = True) -> Tape:
    tape = step_tape(geometry("deit_t", 64), 2, attention)
    return lower(tape if trains else tape.train_only(lambda p: p.name.startswith("head.")), precision, device)


def _casts(tape: Tape) -> Counter[str]:
    return Counter(op.kind for op in tape if op.kind.startswith("cast"))


def test_fp32_on_the_cpu_is_the_tape_itself() -> None:
    tape = step_tape(geometry("deit_t", 64), 2, "fused")
    assert lower(tape, "fp32", "cpu") is tape


@pytest.mark.parametrize(("precision", "dtype"), [("amp_bf16", "bf16"), ("amp_fp16", "fp16")])
def test_autocast_casts_what_products_read(precision: str, dtype: str) -> None:
    tape = _lowered(precision)
    linears = 4 * BLOCKS + 1
    weights_and_biases = 2 * (linears + 1)  # and the patch embedding's
    # Images, the outputs of both norms of each block, the pooled token; fp32 again: patches and scores.
    activations = 1 + 2 * BLOCKS + 1 + 2
    assert _casts(tape) == {"cast_parameter": weights_and_biases, "cast": activations}
    formats = {op.kind: tape.tensors[op.writes].dtype for op in tape}
    assert formats["linear"] == formats["attention"] == formats["gelu"] == dtype
    assert formats["layer_norm"] == formats["add"] == formats["cross_entropy"] == "fp32"


def test_only_copies_of_weights_that_train_are_held_until_the_end() -> None:
    held = {op.params["value"] for op in _lowered("amp_bf16", trains=False) if op.attrs.get("cached")}
    assert held == {"head.weight", "head.bias"}


def test_pure_bf16_casts_nothing() -> None:
    tape = _lowered("bf16")
    assert not _casts(tape)
    assert {p.dtype for p in tape.parameters.values()} == {"bf16"}
    assert {name: tensor.dtype for name, tensor in tape.tensors.items() if tensor.dtype != "bf16"} == {
        "labels": "int64"
    }


@pytest.mark.parametrize(
    ("precision", "kernel"), [("fp32", "efficient"), ("amp_bf16", "cudnn"), ("bf16", "cudnn")]
)
def test_cuda_picks_its_kernel_by_the_number_format(precision: str, kernel: str) -> None:
    """On a Hopper, if no card is named; on an Ampere it is flash attention."""
    tape = _lowered(precision, "cuda")
    assert {op.attrs["path"] for op in tape if op.kind == "attention"} == {kernel}
    ampere = {op.attrs["path"] for op in _lowered(precision, "cuda/a100") if op.kind == "attention"}
    assert ampere == {kernel.replace("cudnn", "flash")}
    assert {op.attrs["statistics"] for op in tape if op.kind == "layer_norm"} == {"fp32"}


@pytest.mark.parametrize("path", ["math", "flash", "cudnn"])
def test_a_kernel_that_is_named_stays(path: str) -> None:
    assert {op.attrs["path"] for op in _lowered("fp32", "cuda", path) if op.kind == "attention"} == {path}


def test_the_softmax_is_in_32_bits_on_cuda_only() -> None:
    formats = {
        device: {op.attrs["softmax"] for op in _lowered("amp_bf16", device, "math") if op.kind == "attention"}
        for device in ("cpu", "cuda")
    }
    assert formats == {"cpu": {"bf16"}, "cuda": {"fp32"}}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_shapes_stay(precision: str) -> None:
    plain = drop_tokens(step_tape(geometry("deit_t", 64), 2, "math"), 3, Selection(0.5, True, True))
    lowered = lower(plain, precision, "cpu")
    assert {name: t.shape for name, t in plain.tensors.items()}.items() <= {
        name: t.shape for name, t in lowered.tensors.items()
    }.items()


def test_each_user_of_a_frozen_weight_casts_it_for_itself() -> None:
    """Autocast keeps its copies of what trains alone."""
    tape = lower(
        parse_method("vera(r=4)").rewrite(step_tape(geometry("deit_t", 64), 2, "fused")), "amp_bf16", "cpu"
    )
    made = [op.writes for op in tape if op.kind == "cast_parameter" and "vera_A" in op.params["value"]]
    assert len(made) == len(set(made)) == BLOCKS
    read = [op.params["weight"] for op in tape if op.name.endswith(".vera_A") and op.kind == "linear"]
    assert read == made


def test_what_a_method_brings_to_a_traced_step_has_its_format() -> None:
    tape = tape_of(Config("llama_tiny", 16, 10, 2, precision="bf16", method="lora"))
    assert {p.dtype for p in tape.parameters.values()} == {"bf16"}
    assert any("lora" in name for name in tape.parameters)


def test_of_a_traced_step_weights_that_train_are_copied_once() -> None:
    """Two layers share a weight; frozen, each call makes its own."""
    config = Config("tests.models.traced.small:build", 16, 10, 2, precision="amp_bf16", method="full")
    copies = [op for op in tape_of(config) if op.kind == "cast_parameter"]
    shared = [op for op in copies if op.params["value"] in ("first.weight", "second.weight")]
    assert len(shared) == 1 and all(op.attrs["cached"] for op in copies)
    head = [op for op in tape_of(config.with_method("linear")) if op.kind == "cast_parameter"]
    assert {op.params["value"] for op in head} == {"head.weight", "head.bias"}
    assert lower(tape_of(config), "amp_bf16", "cpu") == tape_of(config)
