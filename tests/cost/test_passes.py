"""Who holds a tensor, and when it is freed: by hand on little tapes, and over steps of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.cost.holders import Event, Memory, Moment
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.peak import find_peak, timeline
from bsr_explorer.cost.setup import Setup
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _changes(memory: Memory) -> Changes:
    return [(event.name, event.change) for event in memory.events]


def _alive(changes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Bytes by name at the end."""
    alive: Counter[str] = Counter()
    for name, change in changes:
        alive[name] += change
    return {name: size for name, size in alive.items() if size}


# --- holders --------------------------------------------------------------------------------------------


def test_a_tensor_is_freed_with_its_last_holder() -> None:
    memory = Memory()
    memory.take("x", 10)
    memory.hold("x")
    memory.drop("x")
    assert (_changes(memory), memory.holders("x")) == ([("x", 10)], 1)
    memory.drop("x")
    assert (_changes(memory), memory.holders("x")) == ([("x", 10), ("x", -10)], 0)


def test_a_name_is_taken_once_at_a_time() -> None:
    memory = Memory()
    memory.take("x", 10)
    with pytest.raises(AssertionError, match="x is already there"):
        memory.take("x", 10)
    memory.drop("x")
    memory.take("x", 20)
    assert _alive(_changes(memory)) == {"x": 20}


def test_what_is_gone_is_neither_held_nor_dropped() -> None:
    memory = Memory()
    memory.take("x", 10)
    memory.drop("x")
    for action in (memory.hold, memory.drop):
        with pytest.raises(AssertionError, match="x is gone"):
            action("x")


def test_what_was_found_is_not_recorded_until_it_is_freed() -> None:
    memory = Memory()
    memory.found("x", 10)
    assert _changes(memory) == []
    memory.drop("x")
    assert _changes(memory) == [("x", -10)]


def test_sizes_are_rounded_up_to_what_the_allocator_hands_out() -> None:
    memory = Memory(granularity=512)
    for name, size in (("none", 0), ("one", 1), ("exact", 512), ("more", 513)):
        memory.take(name, size)
    memory.drop("more")
    assert _changes(memory) == [("none", 0), ("one", 512), ("exact", 512), ("more", 1024), ("more", -1024)]
    assert memory.size("more") == 1024


def test_each_event_has_its_moment() -> None:
    memory = Memory()
    memory.take("weight", 4, "parameter")
    memory.moment = Moment("forward", 3, "blocks.3.norm1")
    memory.take("x", 8)
    assert memory.events == [
        Event(4, "weight", Moment("standing", None, "")),
        Event(8, "x", Moment("forward", 3, "blocks.3.norm1")),
    ]


def test_a_holder_may_say_the_kind() -> None:
    memory = Memory()
    memory.take("weight", 4, "parameter")
    memory.take("x", 8)
    assert memory.kinds == {"weight": "parameter"}
    memory.hold("x", "saved")
    assert memory.kinds == {"weight": "parameter", "x": "saved"}


# --- forward: frames and autograd -----------------------------------------------------------------------


def _chain(*names: str) -> Tape:
    """x → 0.out → 1.out …, each of 10 numbers, by activations of these names."""
    reads = ["x", *(f"{index}.out" for index in range(len(names)))]
    ops = (Op(name, "gelu", 0, (reads[i],), f"{i}.out") for i, name in enumerate(names))
    return Tape((Tensor("x", (10,), "x"),), {}, tuple(ops))


def test_without_a_graph_a_tensor_lives_until_it_was_read(passes: Passes) -> None:
    assert passes(_chain("a", "b", "c"), live=False)[0] == [
        ("0.out", 40),
        ("x", -40),
        ("1.out", 40),
        ("0.out", -40),
        ("2.out", 40),
        ("1.out", -40),
    ]


def test_a_module_holds_what_it_was_given_until_it_returns(passes: Passes) -> None:
    assert passes(_chain("norm", "mlp.fc1", "mlp.act", "mlp.fc2"), live=False)[0][2:] == [
        ("1.out", 40),
        ("2.out", 40),
        ("1.out", -40),  # the module's own
        ("3.out", 40),
        ("0.out", -40),  # what it was given
        ("2.out", -40),
    ]


def test_autograd_holds_what_backward_needs(passes: Passes) -> None:
    assert passes(_chain("a", "b"))[0] == [("0.out", 40), ("1.out", 40)]


def test_attention_keeps_qkv_while_its_projection_runs(passes: Passes) -> None:
    ops = (
        Op("attn.qkv", "gelu", 0, ("x",), "qkv"),
        Op("attn", "attention", 0, ("qkv",), "y", attrs={"heads": 2, "path": "fused"}),
        Op("attn.proj", "linear", 0, ("y",), "z", {"weight": "w"}),
        Op("norm", "gelu", 0, ("z",), "out"),
    )
    frozen = {"w": Parameter("w", (4, 4), 0, trains=False)}
    forward, _ = passes(Tape((Tensor("x", (2, 5, 12), "x"),), frozen, ops), live=False)
    assert [name for name, change in forward if change < 0] == ["attn:logsumexp", "x", "qkv", "y", "z"]
    assert forward.index(("qkv", -480)) > forward.index(("z", 160))


def test_what_pooling_reads_is_held_until_the_head_returns(passes: Passes) -> None:
    ops = (
        Op("norm", "gelu", None, ("x",), "y"),
        Op("", "mean_tokens", None, ("y",), "pooled", attrs={"prefix": 1}),
        Op("head", "linear", None, ("pooled",), "z", {"weight": "w"}),
        Op("loss", "cross_entropy", None, ("z", "labels"), "loss.out"),
    )
    inputs = (Tensor("x", (2, 5, 4), "x"), Tensor("labels", (2,), "labels", "int64", role="input"))
    tape = Tape(inputs, {"w": Parameter("w", (3, 4), None, trains=False)}, ops)
    forward, _ = passes(tape, live=False)
    assert forward.index(("z", 24)) < forward.index(("y", -160)) < forward.index(("loss.out", 4))


def test_autocast_holds_its_copies_of_trained_weights_until_it_is_left() -> None:
    cast = Op("a", "cast_parameter", 0, (), "w in bf16", {"value": "w"}, {"dtype": "bf16", "cached": True})
    for cached, freed_by in ((True, "c"), (False, "a")):
        tape = _chain("a", "b", "c")
        first = replace(tape.ops[0], kind="scale", params={"gamma": "w in bf16"})
        copy = replace(cast, attrs={**cast.attrs, "cached": cached})
        memory = Memory()
        memory.found("x", 40)
        parameters = {"w": Parameter("w", (10,), 0, trains=False)}
        Pass(replace(tape, parameters=parameters, ops=(copy, first, *tape.ops[1:])), memory).forward()
        assert {e.moment.operation for e in memory.events if e.change == -20} == {freed_by}


# --- backward -------------------------------------------------------------------------------------------


def _linear() -> Tape:
    """x (2, 3) → y (2, 4)."""
    parameters = {name: Parameter(name, shape, 0) for name, shape in (("w", (4, 3)), ("b", (4,)))}
    op = Op("fc", "linear", 0, ("x",), "y", {"weight": "w", "bias": "b"})
    return Tape((Tensor("x", (2, 3), "x"),), parameters, (op,))


def test_gradients_come_and_what_was_kept_goes(passes: Passes) -> None:
    assert passes(_linear())[1] == [
        ("gradient 1 of x", 24),
        ("gradient of w", 48),
        ("gradient of b", 16),
        ("gradient from above", -32),
        ("x", -24),
    ]


def test_where_gradients_stand_new_ones_are_added_and_let_go(passes: Passes) -> None:
    assert passes(_linear(), stand=True)[1] == [
        ("gradient 1 of x", 24),
        ("new gradient of w", 48),
        ("new gradient of b", 16),
        ("gradient from above", -32),
        ("x", -24),
        ("new gradient of w", -48),
        ("new gradient of b", -16),
    ]


def test_a_gradient_that_arrives_is_added_in_place(passes: Passes) -> None:
    """x + gelu(x): the gradient from above stands for both summands', and then for x's."""
    ops = (Op("a", "gelu", 0, ("x",), "y"), Op("", "add", 0, ("x", "y"), "z"))
    assert passes(Tape((Tensor("x", (10,), "x"),), {}, ops))[1] == [
        ("gradient 1 of x", 40),
        ("x", -40),
        ("gradient 1 of x", -40),
    ]


def test_gradients_that_others_see_are_not_added_in_place(passes: Passes) -> None:
    """(x + y) + (x + z): every summand's gradient is the one from above."""
    ops = (
        Op("a", "add", 0, ("x", "y"), "a"),
        Op("b", "add", 0, ("x", "z"), "b"),
        Op("c", "add", 0, ("a", "b"), "c"),
    )
    assert passes(Tape(tuple(Tensor(name, (10,), name) for name in "xyz"), {}, ops))[1] == [
        ("gradient 1 of x", 40)
    ]


# --- segments that run again ----------------------------------------------------------------------------


def _segment(tape: Tape, path: str) -> Tape:
    """The tape with the operations of a module as a segment."""
    ops = (replace(op, segment=path if op.name.startswith(path) else "") for op in tape)
    return replace(tape, ops=tuple(ops))


def test_a_segment_keeps_its_input_and_runs_again_until_all_is_there(passes: Passes) -> None:
    tape = _segment(_chain("before", "block.0", "block.1", "block.2"), "block")
    forward, backward = passes(tape)
    assert _alive(forward) == {"0.out": 40, "3.out": 40}  # the part's own result is the caller's
    assert backward[:2] == [("1.out", 40), ("2.out", 40)]  # the last result is nobody's
    assert ("3.out", 40) not in backward
    assert _alive(forward + backward) == {
        "x": -40,
        "3.out": 40,
        "gradient from above": -40,
        "gradient 4 of x": 40,
    }


def test_a_segment_of_which_nothing_is_kept_is_left_alone(passes: Passes) -> None:
    plain = _chain("before", "block.0", "block.1")
    assert passes(_segment(plain, "block"), live=False) == passes(plain, live=False)


def test_what_a_segment_was_fed_with_stays_until_it_is_unwound(passes: Passes) -> None:
    tape = _segment(_chain("before", "block.0", "block.1", "block.2"), "block")
    backward = passes(tape)[1]
    assert backward.index(("0.out", -40)) > backward.index(("gradient 3 of 0.out", 40))


# --- whole steps ----------------------------------------------------------------------------------------

TINY = replace(geometry("deit_t", 32), width=24, heads=3, hidden=96, depth=3, num_classes=5)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any small vision transformer."""
    class_token = draw(st.booleans())
    changes: dict[str, Any] = {
        "mlp": draw(st.sampled_from(["gelu", "swiglu"])),
        "hidden": draw(st.sampled_from([12, 96])),
        "heads": draw(st.sampled_from([1, 3])),
        "class_token": class_token,
        "register_tokens": draw(st.sampled_from([0, 2])),
        "pool": draw(st.sampled_from(["token", "avg"])) if class_token else "avg",
        "final_norm": draw(st.sampled_from(["norm", "fc_norm", "none"])),
        "embed_prefix": class_token and draw(st.booleans()),
    }
    for flag in ("position_embedding", "patch_bias", "qkv_bias", "proj_bias", "layer_scale", "pre_norm"):
        changes[flag] = draw(st.booleans())
    return replace(TINY, **changes)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Tape, Setup]:
    """A step of any kind, on any device, of 2 images or more."""
    shape = draw(geometries())
    parts = [draw(st.sampled_from(["full", "linear", "last(k=2)", "bitfit"]))]
    if shape.class_token and draw(st.booleans()):
        keep = draw(st.dictionaries(st.integers(0, 2), st.sampled_from([0.3, 0.6]), max_size=2))
        parts = [str(Bsr(tuple(draw(st.sets(st.integers(0, 2)))), keep, draw(st.booleans())))]
    for name in ("checkpoint", "offload"):
        parts += draw(st.sampled_from([[], [], [name], [f"{name}(blocks=(1,))"]]))
    device, precision = draw(st.sampled_from(["cpu", "cuda"])), draw(st.sampled_from(sorted(PRECISIONS)))
    tape = step_tape(shape, draw(st.integers(2, 4)), draw(st.sampled_from(["fused", "math"])))
    setup = Setup(
        draw(st.sampled_from(["sgd", "sgd_momentum", "adamw", "adamw_8bit"])),
        draw(st.sampled_from(["auto", "loop", "foreach", "fused"])),
        device,
        draw(st.integers(1, 2)),
        draw(st.booleans()),
        precision == "amp_fp16",
    )
    return lower(parse_method("+".join(parts)).rewrite(tape), precision, device), setup


def rounded_to_blocks(size: int, setup: Setup) -> int:
    return setup.on.rounded(size)


@settings(max_examples=60)
@given(steps())
def test_a_step_leaves_what_stands_and_gradients_and_nothing_else(step: tuple[Tape, Setup]) -> None:
    tape, setup = step
    events = timeline(tape, setup).events
    expected = {e.name: e.change for e in events if e.moment.phase == "standing" and e.change}
    for p in tape.parameters.values():
        if p.trains:
            expected[f"gradient of {p.name}"] = rounded_to_blocks(p.bytes, setup)
    if setup.scaler:
        expected["whether a gradient overflowed"] = rounded_to_blocks(4, setup)
    assert _alive((event.name, event.change) for event in events) == expected


@settings(max_examples=40)
@given(steps())
def test_nothing_is_freed_before_it_is_there(step: tuple[Tape, Setup]) -> None:
    alive: Counter[str] = Counter()
    for event in timeline(*step).events:
        alive[event.name] += event.change
        assert alive[event.name] >= 0
        assert event.change % step[1].on.granularity == 0


@settings(max_examples=40)
@given(steps())
def test_what_is_alive_at_the_peak_adds_up_to_it(step: tuple[Tape, Setup]) -> None:
    memory = timeline(*step)
    peak = find_peak(memory)
    assert sum(peak.alive.values()) == peak.bytes
    assert min(peak.alive.values()) > 0
    assert peak.bytes >= sum(event.change for event in memory.events)
