"""A forward and a backward pass: by hand on little tapes, and over steps of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.cost.peak import find_peak
from bsr_explorer.cost.setup import Setup
from bsr_explorer.cost.step import Recorded
from bsr_explorer.cost.timeline import timeline
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.tape import Tape
from tests.cost.conftest import alive, chain

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


# --- forward: frames and autograd -----------------------------------------------------------------------


def test_without_a_graph_a_tensor_lives_until_it_was_read(passes: Passes) -> None:
    assert passes(chain("a", "b", "c"), live=False)[0] == [
        ("0.out", 40),
        ("x", -40),
        ("1.out", 40),
        ("0.out", -40),
        ("2.out", 40),
        ("1.out", -40),
    ]


# --- segments that run again ----------------------------------------------------------------------------


def _segment(tape: Tape, path: str) -> Tape:
    """The tape with the operations of a module as a segment."""
    ops = (replace(op, segment=path if op.name.startswith(path) else "") for op in tape)
    return replace(tape, ops=tuple(ops))


def test_a_segment_keeps_its_input_and_runs_again_until_all_is_there(passes: Passes) -> None:
    tape = _segment(chain("before", "block.0", "block.1", "block.2"), "block")
    forward, backward = passes(tape)
    assert alive(forward) == {"0.out": 40, "3.out": 40}  # the part's own result is the caller's
    assert backward[:2] == [("1.out", 40), ("2.out", 40)]  # the last result is nobody's
    assert ("3.out", 40) not in backward
    assert alive(forward + backward) == {
        "x": -40,
        "3.out": 40,
        "gradient from above": -40,
        "gradient 4 of x": 40,
    }


def test_a_segment_of_which_nothing_is_kept_is_left_alone(passes: Passes) -> None:
    plain = chain("before", "block.0", "block.1")
    assert passes(_segment(plain, "block"), live=False) == passes(plain, live=False)


def test_what_a_segment_was_fed_with_stays_until_it_is_unwound(passes: Passes) -> None:
    tape = _segment(chain("before", "block.0", "block.1", "block.2"), "block")
    backward = passes(tape)[1]
    assert backward.index(("0.out", -40)) > backward.index(("gradient 3 of 0.out", 40))


def test_what_a_segment_hands_on_beside_its_output_goes_at_once_when_it_runs_again(passes: Passes) -> None:
    tape = _segment(chain("before", "block.0", "block.1", "block.2", "block.3", "after"), "block")
    also = {
        "block.1": ("1.out", "0.out"),
        "after": ("4.out", "1.out"),
    }  # a sum keeps nothing of what it reads
    ops = (replace(op, kind="add", reads=also[op.name]) if op.name in also else op for op in tape)
    backward = [change for change in passes(replace(tape, ops=tuple(ops)))[1] if change[0][1:] == ".out"]
    assert backward[:4] == [("1.out", 40), ("2.out", 40), ("1.out", -40), ("3.out", 40)]


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


@settings(max_examples=60)
@given(steps())
def test_a_step_leaves_what_stands_and_nothing_else(step: tuple[Tape, Setup]) -> None:
    """Gradients among it, where they stand; else they are given back at its end."""
    tape, setup = step
    events = timeline(Recorded.of(tape), setup).events
    expected = {e.name: e.change for e in events if e.moment.phase == "standing" and e.change}
    assert alive((event.name, event.change) for event in events) == expected


@settings(max_examples=40)
@given(steps())
def test_nothing_is_freed_before_it_is_there(step: tuple[Tape, Setup]) -> None:
    alive: Counter[str] = Counter()
    tape, setup = step
    for event in timeline(Recorded.of(tape), setup).events:
        alive[event.name] += event.change
        assert alive[event.name] >= 0
        assert event.change % setup.on.granularity == 0


@settings(max_examples=40)
@given(steps())
def test_what_is_alive_at_the_peak_adds_up_to_it(step: tuple[Tape, Setup]) -> None:
    tape, setup = step
    memory = timeline(Recorded.of(tape), setup)
    peak = find_peak(memory)
    assert sum(peak.alive.values()) == peak.bytes
    assert min(peak.alive.values()) > 0
    assert peak.bytes >= sum(event.change for event in memory.events)
