"""How long the frames of a model hold a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bsr_explorer.cost.frames import Frames
from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.passes import Pass
from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Parameter, Tape, Tensor
from tests.cost.conftest import chain

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def test_a_module_holds_what_it_was_given_until_it_returns(passes: Passes) -> None:
    assert passes(chain("norm", "mlp.fc1", "mlp.act", "mlp.fc2"), live=False)[0][2:] == [
        ("1.out", 40),
        ("2.out", 40),
        ("1.out", -40),  # the module's own
        ("3.out", 40),
        ("2.out", -40),
        ("0.out", -40),  # what it was given, which the caller holds
    ]


def test_attention_keeps_qkv_while_its_projection_runs(passes: Passes) -> None:
    ops = (
        Op("attn.qkv", "gelu", 0, ("x",), "qkv"),
        Op("attn", "attention", 0, ("qkv",), "y", attrs={"heads": 2, "path": "fused"}),
        Op("attn.proj", "linear", 0, ("y",), "z", {"weight": "w"}),
        Op("norm", "gelu", 0, ("z",), "out"),
    )
    frozen = {"w": Parameter("w", (4, 4), 0, trains=False)}
    forward, _ = passes(Tape((Tensor("x", (2, 5, 12), "x"),), frozen, ops), live=False)
    assert [name for name, change in forward if change < 0] == ["attn:logsumexp", "y", "qkv", "x", "z"]
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
        tape = chain("a", "b", "c")
        first = replace(tape.ops[0], kind="scale", params={"gamma": "w in bf16"})
        copy = replace(cast, attrs={**cast.attrs, "cached": cached})
        memory = Memory()
        memory.found("x", 40)
        parameters = {"w": Parameter("w", (10,), 0, trains=False)}
        changed = replace(tape, parameters=parameters, ops=(copy, first, *tape.ops[1:]))
        Pass(Recorded.of(changed), memory).forward()
        assert {e.moment.operation for e in memory.events if e.change == -20} == {freed_by}


def test_a_tensor_ends_with_the_operation_that_reads_it_or_with_the_module_that_is_given_it() -> None:
    frames = Frames(chain("norm", "mlp.fc1", "mlp.act", "mlp.fc2", "head"), "")
    assert frames.ends == {"x": 0, "0.out": 3, "1.out": 2, "2.out": 3, "3.out": 4}


def test_what_a_caller_feeds_within_a_module_ends_within_it() -> None:
    tape = chain("blocks.norm", "blocks.act")
    assert Frames(tape, "").ends["x"] == 1  # `blocks` is given it
    assert Frames(tape, "blocks").ends["x"] == 0


def test_a_module_ends_with_its_last_operation_and_the_model_before_the_loss() -> None:
    loss = Op("loss", "cross_entropy", None, ("1.out", "labels"), "loss.out")
    tape = chain("a.b", "a.c")
    labels = Tensor("labels", (10,), "labels", "int64", role="input")
    frames = Frames(replace(tape, inputs=(*tape.inputs, labels), ops=(*tape.ops, loss)), "")
    assert [frames.end_of(path) for path in ("a.b", "a", "")] == [0, 1, 1]
