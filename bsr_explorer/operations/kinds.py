"""The table of kinds: one line a kind, which stands in one file of this room."""

from __future__ import annotations

from collections.abc import Mapping

from bsr_explorer.errors import UserError
from bsr_explorer.operations.aggregate import ADD_OPENED, AGGREGATE
from bsr_explorer.operations.attention import ATTENTION
from bsr_explorer.operations.call import CALL
from bsr_explorer.operations.casts import CAST, CAST_PARAMETER
from bsr_explorer.operations.class_attention import CLASS_ATTENTION
from bsr_explorer.operations.convolution import CONVOLUTION
from bsr_explorer.operations.elementwise import (
    ADD,
    ADD_PARAMETER,
    GATE_HALF,
    GELU,
    RELU,
    ROWS,
    SCALE,
    SCALE_CHANNELS,
    SILU_HALF,
    TIMES,
)
from bsr_explorer.operations.factored import FACTORED_LINEAR, SUBSPACE_LINEAR
from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.layout import BY_TOKEN, SWAP
from bsr_explorer.operations.linear import LINEAR, PARTIAL_LINEAR, PATCH_EMBED
from bsr_explorer.operations.loss import CROSS_ENTROPY
from bsr_explorer.operations.magnitude import MAGNITUDE
from bsr_explorer.operations.merging import LOG_SIZES, MATCH_TOKENS, MERGE_SIZES, MERGE_TOKENS
from bsr_explorer.operations.mix import MIX
from bsr_explorer.operations.norm import LAYER_NORM
from bsr_explorer.operations.op import Op, Parameter, Part, Tensor
from bsr_explorer.operations.patches import POOL_PATCHES, SPREAD_PATCHES
from bsr_explorer.operations.rule import Rule
from bsr_explorer.operations.scores import (
    CLASS_CHANGE,
    MEAN_ATTENTION,
    PATCH_SOFTMAX,
    RANDOM_SCORES,
    TOKEN_NORMS,
)
from bsr_explorer.operations.swish import SWISH
from bsr_explorer.operations.tasks import MASKED_FILL, OTHER_TASKS
from bsr_explorer.operations.tokens import (
    DROP_TOKENS,
    MEAN_TOKENS,
    PREFIX_TOKENS,
    REPLACE_TOKENS,
    SELECT_TOKEN,
)
from bsr_explorer.units import WIDTH

KINDS: dict[str, Kind] = {
    "patch_embed": PATCH_EMBED,
    "prefix_tokens": PREFIX_TOKENS,
    "replace_tokens": REPLACE_TOKENS,
    "add_parameter": ADD_PARAMETER,
    "layer_norm": LAYER_NORM,
    "linear": LINEAR,
    "partial_linear": PARTIAL_LINEAR,
    "factored_linear": FACTORED_LINEAR,
    "subspace_linear": SUBSPACE_LINEAR,
    "attention": ATTENTION,
    "class_attention": CLASS_ATTENTION,
    "mean_attention": MEAN_ATTENTION,
    "class_change": CLASS_CHANGE,
    "token_norms": TOKEN_NORMS,
    "random_scores": RANDOM_SCORES,
    "patch_softmax": PATCH_SOFTMAX,
    "drop_tokens": DROP_TOKENS,
    "match_tokens": MATCH_TOKENS,
    "merge_sizes": MERGE_SIZES,
    "log_sizes": LOG_SIZES,
    "merge_tokens": MERGE_TOKENS,
    "gelu": GELU,
    "relu": RELU,
    "silu_half": SILU_HALF,
    "gate_half": GATE_HALF,
    "scale": SCALE,
    "scale_channels": SCALE_CHANNELS,
    "times": TIMES,
    "rows": ROWS,
    "magnitude": MAGNITUDE,
    "add": ADD,
    "by_token": BY_TOKEN,
    "swap": SWAP,
    "convolution": CONVOLUTION,
    "pool_patches": POOL_PATCHES,
    "spread_patches": SPREAD_PATCHES,
    "mix": MIX,
    "swish": SWISH,
    "aggregate": AGGREGATE,
    "add_opened": ADD_OPENED,
    "select_token": SELECT_TOKEN,
    "mean_tokens": MEAN_TOKENS,
    "other_tasks": OTHER_TASKS,
    "masked_fill": MASKED_FILL,
    "cross_entropy": CROSS_ENTROPY,
    "call": CALL,
    "cast": CAST,
    "cast_parameter": CAST_PARAMETER,
}


def register(kind: Kind) -> None:
    """Let operations be of a kind that is not the package's own. (A method's module does so when it is imported.)

    Raises:
        UserError: another kind has this name.
    """
    if KINDS.setdefault(kind.name, kind) != kind:
        raise UserError(
            f"the kind of operation {kind.name!r} is registered with other values; "
            "give one of the two another name"
        )


def kind_of(op: Op) -> Kind:
    """The kind of an operation.

    Raises:
        UserError: no kind has this name.
    """
    try:
        return KINDS[op.kind]
    except KeyError:
        raise UserError(
            f"{op.name or op.writes}: there is no kind of operation {op.kind!r}; there are {', '.join(KINDS)}. A "
            "method that brings another says what it costs with bsr_explorer.operations.register"
        ) from None


def rule_of(op: Op) -> Rule:
    """The rule of an operation, as it is run.

    Raises:
        UserError: no kind has this name, or what it keeps shall be packed and it has no function that does.
    """
    kind = kind_of(op)
    if not op.packs:
        return kind.plain
    if kind.packed is None:
        raise UserError(
            f"{op.name or op.writes}: an operation of kind {op.kind!r} cannot pack what it keeps; let the method leave "
            "it as it is, or give the kind a packed rule"
        )
    return kind.packed


def made_by(op: Op, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> tuple[Tensor, ...]:
    """All that an operation makes, given what it reads: what it writes first."""
    makes = kind_of(op).makes
    if makes is None:
        return (inferred(op, tensors, parameters),)
    params = {part: parameters.get(name) or tensors[name] for part, name in op.params.items()}
    return makes(op, [tensors[name] for name in op.reads], params)


def inferred(op: Op, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> Tensor:
    """What an operation writes, given what it reads."""
    kind = kind_of(op)
    if kind.makes is not None:
        return made_by(op, tensors, parameters)[0]
    reads = [tensors[name] for name in op.reads]
    params = {part: parameters.get(name) or tensors[name] for part, name in op.params.items()}
    operands = reads[:1] if kind.as_first else [*reads, *params.values()]
    dtype = op.attrs.get("dtype") or _widest(*operands)
    storage = reads[0].storage if kind.view else op.writes
    return Tensor(op.writes, kind.shape(op, reads, params), storage, dtype)


def _widest(*operands: Part) -> str:
    """The number format of a result: the widest of the floating-point operands'."""
    floats = [operand.dtype for operand in operands if not operand.dtype.startswith("int")]
    return max(floats, key=WIDTH.__getitem__, default="fp32")
