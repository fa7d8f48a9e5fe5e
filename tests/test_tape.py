"""Shapes, liveness and rewrites of small tapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsr_explorer.models.base import Selection
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.models.vit.step import drop_tokens, step_tape
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

DEIT = Geometry(
    name="deit",
    image_size=224,
    num_classes=10,
    patch=16,
    channels=3,
    width=8,
    depth=12,
    heads=2,
    hidden=32,
    mlp="gelu",
    class_token=True,
    register_tokens=0,
    position_embedding=True,
    embed_prefix=True,
    patch_bias=True,
    qkv_bias=True,
    proj_bias=True,
    layer_scale=False,
    pre_norm=False,
    final_norm="norm",
    pool="token",
)


def _two_layers() -> Tape:
    """x (2, 5, 3) → first (2, 5, 4) → second (2, 5, 6)."""
    return Tape(
        inputs=(Tensor("x", (2, 5, 3), "x"),),
        parameters={"w1": Parameter("w1", (4, 3), 0), "w2": Parameter("w2", (6, 4), 1)},
        ops=(
            Op("first", "linear", 0, ("x",), "y", {"weight": "w1"}),
            Op("second", "linear", 1, ("y",), "z", {"weight": "w2"}),
        ),
    )


def test_shapes_follow_from_the_operations() -> None:
    tensors = _two_layers().tensors
    assert (tensors["y"].shape, tensors["z"].shape) == ((2, 5, 4), (2, 5, 6))


def test_a_rewrite_in_the_middle_changes_the_shapes_above_it() -> None:
    tape = _two_layers()
    drop = Op("drop", "drop_tokens", 0, ("y",), "y2", attrs={"prefix": 1, "keep": 0.5, "fuse": False})
    rewritten = tape.insert_after(tape.op("first", "linear"), drop, instead_of="y")
    assert rewritten.tensors["z"].shape == (2, 3, 6)


def test_an_inserted_operation_is_read_by_later_ones_only() -> None:
    tape = _two_layers()
    rewritten = tape.insert_after(tape.ops[0], Op("act", "gelu", 0, ("y",), "y2"), instead_of="y")
    assert [(op.name, op.reads) for op in rewritten] == [
        ("first", ("x",)),
        ("act", ("y",)),
        ("second", ("y2",)),
    ]


def test_a_rewrite_leaves_the_old_tape_alone() -> None:
    tape = _two_layers()
    frozen = tape.train_only(lambda p: p.name == "w2")
    assert [p.trains for p in tape.parameters.values()] == [True, True]
    assert [p.trains for p in frozen.parameters.values()] == [False, True]


def test_a_gradient_starts_at_the_lowest_trained_parameter() -> None:
    tape = _two_layers().train_only(lambda p: p.name == "w2")
    assert tape.needs_grad() == {"x": False, "y": False, "z": True}


def test_a_part_of_a_step_may_be_fed_with_a_gradient_that_goes_on_below() -> None:
    tape = _two_layers().train_only(lambda p: False)
    assert tape.needs_grad(live_inputs=True) == {"x": True, "y": True, "z": True}


def test_images_never_need_a_gradient() -> None:
    tape = step_tape(DEIT, 1, "fused").train_only(lambda p: False)
    assert not any(tape.needs_grad(live_inputs=True).values())


@pytest.mark.parametrize("faithful", [True, False])
def test_class_attention_runs_with_a_graph_as_the_authors_does(faithful: bool) -> None:
    needs = drop_tokens(step_tape(DEIT, 1, "fused"), 3, Selection(0.5, True, faithful)).needs_grad()
    assert (needs["blocks.3.scores"], needs["blocks.3.kept"]) == (faithful, True)


def test_the_class_token_is_a_view_of_all_tokens() -> None:
    tensors = step_tape(DEIT, 4, "fused").tensors
    assert (tensors["pooled"].shape, tensors["pooled"].storage) == ((4, 8), "norm.out")
    assert tensors["head.out"].storage == "head.out"


@pytest.mark.parametrize(("fuse", "counts"), [(True, [197, 100, 52, 28]), (False, [197, 99, 50, 26])])
def test_half_of_the_tokens_go_at_each_drop(fuse: bool, counts: list[int]) -> None:
    tape = step_tape(DEIT, 1, "fused")
    for block in (3, 6, 9):
        tape = drop_tokens(tape, block, Selection(0.5, fuse, fuse))
    outputs = [tape.tensors[f"blocks.{block}.out"].shape[1] for block in range(12)]
    assert outputs == [counts[0]] * 3 + [counts[1]] * 3 + [counts[2]] * 3 + [counts[3]] * 3


def test_the_block_that_drops_attends_to_all_its_tokens() -> None:
    tensors = drop_tokens(step_tape(DEIT, 1, "fused"), 3, Selection(0.5, True, True)).tensors
    assert tensors["blocks.3.attn.qkv.out"].shape[1] == 197
    assert tensors["blocks.3.norm2.out"].shape[1] == 100


def test_a_result_takes_the_widest_format_among_its_operands() -> None:
    inputs = (Tensor("x", (3,), "x", "bf16"), Tensor("y", (3,), "y"))
    op = Op("", "add", 0, ("x", "y"), "z")
    assert Tape(inputs, {}, (op,)).tensors["z"].dtype == "fp32"
    assert Tape(inputs, {}, (replace(op, reads=("x", "x")),)).tensors["z"].dtype == "bf16"


def test_an_operation_may_say_its_format() -> None:
    cast = Op("", "cast", 0, ("x",), "y", attrs={"dtype": "fp16"})
    assert Tape((Tensor("x", (3,), "x"),), {}, (cast,)).tensors["y"].bytes == 6


def _with_a_copy(trains: bool) -> Tape:
    """A Linear layer that reads a 16-bit copy of its weight."""
    ops = (
        Op("fc", "cast_parameter", 0, (), "copy", {"value": "w"}, {"dtype": "bf16"}),
        Op("fc", "linear", 0, ("x",), "y", {"weight": "copy"}),
    )
    inputs = (Tensor("x", (2, 3), "x", "bf16"),)
    return Tape(inputs, {"w": Parameter("w", (4, 3), 0, trains=trains)}, ops)


def test_a_tensor_may_play_a_parameters_part() -> None:
    tensors = _with_a_copy(trains=True).tensors
    assert (tensors["copy"].shape, tensors["y"].shape) == ((4, 3), (2, 4))
    assert (tensors["copy"].dtype, tensors["y"].dtype) == ("bf16", "bf16")


@pytest.mark.parametrize("trains", [True, False])
def test_a_copy_of_a_weight_needs_a_gradient_where_the_weight_does(trains: bool) -> None:
    assert _with_a_copy(trains).needs_grad() == {"x": False, "copy": trains, "y": trains}
