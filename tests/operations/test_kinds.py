"""The table of kinds: what each says, and all of them against real steps: saved bytes, FLOPs and peak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import bsr_explorer.operations
from bsr_explorer.config import Config
from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.cost.step import Recorded, activation_rows
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.ledger import Ledger, Row
from bsr_explorer.methods import BitFit, Bsr, Checkpoint, Full, Last, Linear, Method, Offload, parse_method
from bsr_explorer.models.base import Selection
from bsr_explorer.models.lowering import PRECISIONS, lower
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import drop_tokens, step_tape
from bsr_explorer.operations import KINDS, Kind, Rule, kind_of, register
from bsr_explorer.operations.kind import in_32_bits
from bsr_explorer.operations.rule import Context, Kept, kept
from bsr_explorer.prediction import predict
from bsr_explorer.storages import Narrow
from bsr_explorer.tape import Op, Tape, Tensor
from tests.cost.conftest import SMALL

ROOM = Path(bsr_explorer.operations.__file__).parent

Both = Callable[..., tuple[Ledger, Ledger]]
"""The fixture of that name."""

SWIGLU: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4}


# --- the table ------------------------------------------------------------------------------------------

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def _rules(kind: Kind) -> list[Rule]:
    return [rule for rule in (kind.plain, kind.packed) if rule is not None]


@every_kind
def test_a_kind_stands_under_its_name_and_says_what_it_is(kind: Kind) -> None:
    assert KINDS[kind.name] is kind
    assert kind.summary and kind.summary[-1] != "."


@every_kind
def test_a_kind_stands_in_one_file(kind: Kind) -> None:
    """Whatever it says and does not share with all kinds."""
    functions = [value for part in (kind, *_rules(kind)) for value in vars(part).values() if callable(value)]
    own = {function.__module__ for function in functions} - {Kind.__module__, Rule.__module__}
    named = [path.stem for path in ROOM.glob("*.py") if f'name="{kind.name}"' in path.read_text()]
    assert own <= {f"bsr_explorer.operations.{named[0]}"}
    assert len(named) == 1


@every_kind
def test_what_packs_is_one_node_and_keeps_results(kind: Kind) -> None:
    assert kind.packed is None or (kind.packed.unpacks and kind.packed.keeps_results)
    assert not kind.plain.unpacks


SCORING = ("drop({1: 0.5}, criterion='attention')", "drop({1: 0.5}, criterion='norm')")
RANDOM = "drop({1: 0.5}, criterion='random')"
BRINGING = (
    *SCORING,
    RANDOM,
    "tome(r=1)",
    "tome(r=1, proportional=True)",
    "adapler",
    "lora(r=2)",
    "paca(r=2)",
    "ia3",
    "dora(r=2)",
    "vpt(deep=True)",
    "wasi",
    "wasi(step='authors')",
    "lst(r=2)",
    "dtl",
    "sherl(r=2)",
    "losa",
    "repnet(r=2)",
    "tinytl(r=2)",
    "dtl(plus=True)",
    "sparse_tuning(width=4)",
    "alast(K=1)",
)
"""Methods that bring kinds of operations which no plain model has; their own tests compare them with real steps."""


def test_every_kind_is_compared_with_real_steps() -> None:
    """The tapes of ``models`` and ``methods`` below have them all."""
    gated = read_geometry(VisionTransformer(**{**SMALL, **SWIGLU, "init_values": 1e-4}))
    pooled = read_geometry(VisionTransformer(**{**SMALL, "global_pool": "avg"}))
    tapes = [drop_tokens(step_tape(g, 2, "math"), 1, Selection(0.5, True, True)) for g in (gated, pooled)]
    bare = read_geometry(VisionTransformer(**{**SMALL, "global_pool": "avg", "class_token": False}))
    tapes += [parse_method(text).rewrite(step_tape(pooled, 2, "math")) for text in BRINGING]
    tapes += [parse_method("dtl").rewrite(step_tape(bare, 2, "math"))]
    tapes.append(parse_method("sparse_tuning(keep=1.0, width=4)").rewrite(step_tape(bare, 2, "math")))
    tapes.append(step_tape(replace(bare, tasks=(2, 3)), 2, "math"))  # tests/models/test_tasks.py
    found = {op.kind for tape in tapes for op in lower(tape, "amp_bf16", "cpu")}
    assert found == set(KINDS) - {"call"}  # which is of traced models: tests/models/traced/test_tape.py


def test_an_unknown_kind_is_named_and_says_what_to_do() -> None:
    tape = Tape((Tensor("x", (2,), "x"),), {}, (Op("blocks.0.side", "ladder", 0, ("x",), "y"),))
    with pytest.raises(UserError, match=r"blocks\.0\.side: there is no kind of operation 'ladder'.*register"):
        predicted_rows(tape)


def test_what_cannot_pack_is_named() -> None:
    op = Op("blocks.0", "add", 0, ("x", "x"), "y", stored={"x": Narrow()})
    with pytest.raises(UserError, match=r"blocks\.0: an operation of kind 'add' cannot pack"):
        predicted_rows(Tape((Tensor("x", (2,), "x"),), {}, (op,)))


def predicted_rows(tape: Tape) -> list[Row]:
    return list(activation_rows(Recorded.of(tape, live_inputs=True)))


# --- kinds from elsewhere -------------------------------------------------------------------------------


def _square_keeps(c: Context) -> list[Kept]:
    return [kept(c.reads[0])] if c.needs[0] else []


SQUARE = Kind(
    name="square",
    summary="every number times itself",
    plain=Rule(keeps=_square_keeps, forward=lambda c: 2 * c.reads[0].numel),
    autocast=in_32_bits,
)


@pytest.fixture
def square() -> Iterator[None]:
    register(SQUARE)
    yield
    del KINDS["square"]


@pytest.mark.usefixtures("square")
def test_a_kind_from_elsewhere_is_predicted_and_lowered_as_it_says() -> None:
    tape = Tape((Tensor("x", (3, 5), "x", "bf16"),), {}, (Op("sq", "square", 0, ("x",), "y"),))
    assert {row.kind: row.bytes or row.flops for row in predicted_rows(tape)} == {
        "saved": 30,
        "forward": 30,
        "backward": 0,
    }
    assert [op.kind for op in lower(tape, "amp_bf16", "cpu")] == ["cast", "square"]
    assert kind_of(tape.ops[0]) is SQUARE


@pytest.mark.usefixtures("square")
def test_a_name_has_one_kind() -> None:
    register(SQUARE)  # again: nothing changes
    with pytest.raises(UserError, match="the kind of operation 'square' is registered with other values"):
        register(replace(SQUARE, stays=0))
    with pytest.raises(UserError, match="'linear' is registered"):
        register(replace(SQUARE, name="linear"))
    assert KINDS["square"] is SQUARE


# --- real steps -----------------------------------------------------------------------------------------


def _check(predicted: Ledger, measured: Ledger) -> None:
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@pytest.mark.parametrize(
    ("model", "image_size", "batch", "attention", "method"),
    [
        ("deit_t", 64, 1, "fused", "bsr"),
        ("deit_t", 64, 2, "math", "bsr(blocks=(1, 11), keep={0: 0.3, 11: 0.5}, fuse=False, norm=False)"),
        ("vit_small_patch14_dinov2", 56, 2, "fused", "bsr(blocks=(3, 7), keep={3: 0.5})"),  # LayerScale
        ("vit_small_patch14_reg4_dinov2", 56, 1, "math", "bsr(blocks=(10,), keep={8: 0.5})"),  # registers
        ("vit_wee_patch16_reg1_gap_256", 64, 2, "fused", "last(2)"),  # mean pooling, fc_norm, no class token
        ("vit_xsmall_patch16_clip_224", 64, 2, "math", "bitfit"),  # a norm before the blocks
    ],
)
def test_models_of_timm(model: str, image_size: int, batch: int, attention: str, method: str) -> None:
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


@pytest.mark.thorough
@settings(max_examples=25)
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


# --- packed -------------------------------------------------------------------------------------------


ONE, FUSED, SCALED = (1, "math", {}), (3, "fused", {}), (3, "math", {"init_values": 1e-5})


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("mesa", SCALED),
        ("mesa(bits=4, faithful=False)", ONE),
        ("mesa(bits=4, faithful=False)", FUSED),
        ("backrazor(ratio=0.5)", SCALED),
        ("backrazor(ratio=0.3, quantize=4, gelu='sparse')", FUSED),
        ("backrazor(faithful=False)", ONE),
        ("backrazor(faithful=False)", FUSED),
        ("bsr(blocks=(1,), keep={0: 0.5})+mesa", ONE),
        ("bsr(blocks=(0,), keep={1: 0.5})+backrazor(ratio=0.8)", SCALED),
        ("checkpoint+mesa(faithful=False)", FUSED),
        ("checkpoint+mesa(faithful=False)", SCALED),
        ("offload+mesa", ONE),
        ("checkpoint(blocks=(0,))+offload+backrazor", SCALED),
    ],
    ids=str,
)
def test_the_peak_of_what_packs_is_that_of_a_real_step(
    both: Both, method: str, step: tuple[int, str, dict[str, float]]
) -> None:
    batch, attention, options = step
    predicted, measured = both(method, attention, batch, **options)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, abs=64)
