"""The peak over time: by hand on a head alone, and to the byte beside the allocator's record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import SwiGLUPacked
from torch import nn

from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.peak import course, find_peak, levels, step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.cost.timeline import optimizer_peak, step_of_the_optimizer, timeline
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import Bsr, Full, Method, parse_method
from bsr_explorer.methods.subset import Subset
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Both = Callable[..., tuple[Ledger, Ledger]]
"""The fixture of that name."""

METHODS = (
    "full",
    "linear",
    "bitfit",
    "last(k=1)",
    "bsr(blocks=(0,), keep={1: 0.5})",
    "bsr(blocks=(1,), keep={0: 0.5}, fuse=False)",
    "checkpoint",
    "bitfit+checkpoint",
    "bsr(blocks=(0,), keep={1: 0.5})+checkpoint(blocks=(1,))",
    "offload",
    "bsr(blocks=(0,), keep={1: 0.5})+offload(blocks=(0,))",
    "checkpoint+offload",
)

PARTS: tuple[dict[str, Any], ...] = (
    {"init_values": 1e-5},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4},
    {"class_token": False, "global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": True},
    {"num_heads": 1},
    {"reg_tokens": 2, "no_embed_class": True},
    {"pre_norm": True, "qkv_bias": False},
)


def _same(predicted: Ledger, measured: Ledger) -> None:
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


# --- beside a real step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "batch"), [("fused", 1), ("math", 3)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_peaks_as_predicted(both: Both, method: str, attention: str, batch: int) -> None:
    _same(*both(method, attention, batch))


@pytest.mark.parametrize(
    ("attention", "precision"), [("fused", "amp_bf16"), ("math", "amp_fp16"), ("fused", "bf16")]
)
@pytest.mark.parametrize("method", ["full", "linear", METHODS[4], "bitfit+checkpoint", "offload"])
def test_every_number_format_peaks_as_predicted(
    both: Both, method: str, attention: str, precision: str
) -> None:
    _same(*both(method, attention, 2, precision))


@pytest.mark.parametrize("method", ["full", "checkpoint"])
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: ",".join(parts))
def test_every_part_of_a_model_peaks_as_predicted(both: Both, parts: dict[str, Any], method: str) -> None:
    _same(*both(method, "math", 2, **parts))
    _same(*both(method, "fused", 2, "amp_bf16", **parts))


@pytest.mark.parametrize("implementation", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adamw"])
def test_every_optimiser_peaks_as_predicted(both: Both, optimizer: str, implementation: str) -> None:
    for method in ("last(k=1)", "checkpoint"):
        _same(*both(method, "fused", 1, optimizer=optimizer, implementation=implementation, embed_dim=48))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_8_bit_optimiser_peaks_as_predicted(both: Both, precision: str) -> None:
    _same(*both("last(k=1)", "fused", 1, precision, optimizer="adamw_8bit", embed_dim=48))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "amp_fp16", "bf16"])
def test_standing_gradients_and_micro_batches_peak_as_predicted(
    both: Both, precision: str, micro_batches: int, set_to_none: bool
) -> None:
    for batch in (1, 2):
        _same(*both("full", "fused", batch, precision, micro_batches=micro_batches, set_to_none=set_to_none))


# --- by hand --------------------------------------------------------------------------------------------


def _head() -> Tape:
    """2 images of 30 numbers, 5 classes, weight and bias."""
    ops = (
        Op("head", "linear", None, ("images",), "out", {"weight": "w", "bias": "b"}),
        Op("loss", "cross_entropy", None, ("out", "labels"), "loss"),
    )
    inputs = (
        Tensor("images", (2, 30), "images", role="input"),
        Tensor("labels", (2,), "labels", "int64", role="input"),
    )
    parameters = {"w": Parameter("w", (5, 30), None), "b": Parameter("b", (5,), None)}
    return Tape(inputs, parameters, ops)


WEIGHTS, BATCH, SCORES, NUMBER = (150 + 5) * 4, 2 * 30 * 4 + 2 * 8, 2 * 5 * 4, 4


def test_a_head_peaks_in_backward_with_its_gradients() -> None:
    peak = step_ledger(_head(), Setup("sgd")).peak
    assert peak is not None
    assert (peak.phase, peak.block, peak.operation) == ("backward", None, "head")
    loss_and_its_gradient = 2 * NUMBER
    assert peak.alive == {
        "parameter": WEIGHTS,
        "input": BATCH,
        "gradient": WEIGHTS,
        "transient": SCORES + loss_and_its_gradient,
    }
    assert peak.bytes == sum(peak.alive.values())


def test_the_optimisers_state_stands_there_all_the_time() -> None:
    peaks = {
        name: step_ledger(_head(), Setup(name, "fused")).peak_bytes
        for name in ("sgd", "sgd_momentum", "adamw")
    }
    assert peaks["sgd_momentum"] - peaks["sgd"] == WEIGHTS
    assert peaks["adamw"] - peaks["sgd"] == 2 * WEIGHTS + 2 * NUMBER


def test_without_a_graph_tensors_are_let_go_once_read() -> None:
    """x → y → z: two of three are alive at once."""
    ops = tuple(Op(f"act{i}", "gelu", None, (f"t{i}",), f"t{i + 1}") for i in range(3))
    memory = Memory()
    tape = Tape((Tensor("t0", (10,), "t0", role="input"),), {}, ops)
    Pass(Recorded.of(tape), memory).forward()
    assert levels(memory.events)[1] == 2 * 40


def test_on_cuda_every_tensor_takes_multiples_of_512_bytes() -> None:
    memory = timeline(Recorded.of(_head()), Setup("sgd", device="cuda"))
    assert {event.change % 512 for event in memory.events} == {0}


def test_the_fullest_moment_is_the_first_of_equals() -> None:
    memory = Memory()
    memory.take("a", 5)
    memory.drop("a")
    memory.take("b", 5)
    assert find_peak(memory).bytes == 5
    assert levels(memory.events) == (5, 5)


# --- gradients that are views ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class _Embeddings(Subset):
    """The class token, registers, positions and the head train, and the patch embedding does not."""

    name: ClassVar[str] = "embeddings"

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """By name."""
        return parameter.startswith(("cls", "reg", "pos", "head"))


@pytest.mark.parametrize("method", [Full(), _Embeddings()])
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
@pytest.mark.parametrize("no_embed_class", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_that_stand_hold_those_of_which_they_are_views(
    both: Both,
    method: Method,
    precision: str,
    no_embed_class: bool,
    batch: int,
) -> None:
    options = {"set_to_none": False, "no_embed_class": no_embed_class, "reg_tokens": 2}
    predicted, measured = both(method, "fused", batch, precision, **options)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


# --- properties -----------------------------------------------------------------------------------------

setups = st.builds(
    Setup,
    st.sampled_from(["sgd", "sgd_momentum", "adamw", "adamw_8bit"]),
    st.sampled_from(["auto", "loop", "foreach", "fused"]),
    st.sampled_from(["cpu", "cuda"]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=40)
@given(
    st.sets(st.integers(0, 3)),
    st.sampled_from([{}, {2: 0.5}, {0: 0.3, 3: 0.7}]),
    st.sampled_from(["", "+checkpoint", "+offload", "+checkpoint(blocks=(0, 2))+offload(blocks=(2, 3))"]),
    st.sampled_from(["fused", "math"]),
    st.sampled_from(list(PRECISIONS)),
    setups,
)
def test_after_a_step_only_what_stands_is_left(
    blocks: set[int], keep: dict[int, float], more: str, attention: str, precision: str, setup: Setup
) -> None:
    method = parse_method(f"{Bsr(tuple(blocks), keep)}{more}")
    shallow = replace(geometry("deit_t", 64), depth=4)
    tape = lower(method.rewrite(step_tape(shallow, 2, attention)), precision, setup.device)
    memory = timeline(Recorded.of(tape), setup)
    alive: dict[str, int] = {}
    for event in memory.events:
        alive[event.name] = alive.get(event.name, 0) + event.change
    left = {name for name, size in alive.items() if size}
    gradients = {f"gradient of {p.name}" for p in tape.parameters.values() if p.trains}
    assert gradients & left == (gradients if setup.gradients_stand else set())
    others = {name for name in left if memory.kinds.get(name) not in ("parameter", "optimizer", "input")}
    scalars = {
        "share of the loss",
        "scaled loss",
        "workspace of the libraries",
    }
    assert others - gradients - scalars == set()
    step = step_ledger(tape, setup)
    assert step.peak is not None
    assert sum(step.peak.alive.values()) == step.peak_bytes >= step.held_bytes - step.gradient_bytes


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5), setups)
def test_the_optimisers_own_peak_is_that_of_its_timeline(sizes: list[int], setup: Setup) -> None:
    trained = [Parameter(f"p{i}", (size, 1), None) for i, size in enumerate(sizes)]
    peak = optimizer_peak(trained, setup)
    tape = Tape((), {p.name: p for p in trained}, ())
    memory = Memory(setup.on.granularity)
    step_of_the_optimizer(tape, setup, memory)
    assert levels(memory.events)[1] == peak


# --- memory over a step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", [Setup(), Setup(optimizer="sgd_momentum", device="cuda", micro_batches=2)])
def test_the_highest_level_of_a_step_is_its_peak(setup: Setup) -> None:
    memory = timeline(Recorded.of(step_tape(geometry("deit_t", 32), 2, "fused")), setup)
    course_of = course(memory)
    peak = find_peak(memory)
    highest = max(course_of, key=lambda level: level.bytes)
    assert (highest.bytes, highest.alive) == (peak.bytes, peak.alive)
    assert highest.moment == (peak.phase, peak.block, peak.operation)
    assert all(sum(level.alive.values()) == level.bytes for level in course_of)
    phases = list(dict.fromkeys(level.moment.phase for level in course_of))
    assert phases == ["standing", "forward", "backward", "optimizer"][: len(phases)]
    assert len(phases) >= 3  # an optimiser that needs no memory of its own is not seen
