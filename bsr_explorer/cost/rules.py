"""The rule table: for each kind of operation, what autograd keeps of it and the FLOPs it takes.

Read in torch's derivative formulas and confirmed, byte by byte and FLOP by FLOP, against real steps
(``tests/cost``). Conventions: 2 FLOPs a multiply-add; matrix products and convolutions only, as torch's
``FlopCounterMode`` counts. Attention's products count Q·Kᵀ and P·V forward; backward, the explicit
("math") path does twice the forward's work, and the fused kernel 2.5 times, for it recomputes the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bsr_explorer.tape import Op, Parameter, Shape, Tensor, kept_tokens
from bsr_explorer.units import FLOPS_PER_MAC


@dataclass(frozen=True)
class Context:
    """What a rule may ask about the operation that it judges."""

    op: Op
    reads: tuple[Tensor, ...]
    writes: Tensor
    params: dict[str, Parameter]
    needs: tuple[bool, ...]

    def trains(self, part: str) -> bool:
        """Whether the parameter that plays this part exists and trains."""
        return part in self.params and self.params[part].trains

    @property
    def live(self) -> bool:
        """Whether autograd records this operation at all."""
        return any(self.needs) or any(p.trains for p in self.params.values())


@dataclass(frozen=True)
class Kept:
    """A tensor that the operation keeps: one of the tape's, or one of its own."""

    tensor: str
    shape: Shape
    dtype: str = "fp32"


@dataclass(frozen=True)
class Rule:
    """The physics of one kind.

    Attributes:
        keeps: what is kept for backward, given what needs a gradient. Parameters are never listed.
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass, given what needs a gradient.
    """

    keeps: Callable[[Context], list[Kept]]
    forward: Callable[[Context], int]
    backward: Callable[[Context], int]


def _kept(tensor: Tensor) -> Kept:
    return Kept(tensor.name, tensor.shape, tensor.dtype)


def _own(c: Context, name: str, shape: Shape, dtype: str = "fp32") -> Kept:
    return Kept(f"{c.op.name}:{name}", shape, dtype)


def _nothing(c: Context) -> list[Kept]:
    return []


def _zero(c: Context) -> int:
    return 0


# --- linear and convolution -----------------------------------------------------------------------------


def _linear_keeps(c: Context) -> list[Kept]:
    """The input, if the weight trains. (The weight is kept if the input needs a gradient: a parameter.)"""
    return [_kept(c.reads[0])] if c.trains("weight") else []


def _linear_forward(c: Context) -> int:
    rows = c.reads[0].numel // c.reads[0].shape[-1]
    return FLOPS_PER_MAC * rows * c.params["weight"].numel


def _linear_backward(c: Context) -> int:
    return _linear_forward(c) * (c.trains("weight") + c.needs[0])


def _patch_forward(c: Context) -> int:
    batch, tokens, _ = c.writes.shape
    return FLOPS_PER_MAC * batch * tokens * c.params["weight"].numel


def _patch_keeps(c: Context) -> list[Kept]:
    """A convolution keeps its input as soon as it is recorded, even for its bias alone."""
    return [_kept(c.reads[0])] if c.live else []


def _patch_backward(c: Context) -> int:
    return _patch_forward(c) * (c.trains("weight") + c.needs[0])


# --- norms, activations, elementwise --------------------------------------------------------------------


def _norm_keeps(c: Context) -> list[Kept]:
    """Input, mean and inverse deviation, even of a frozen norm, once it is recorded."""
    if not c.live:
        return []
    statistics = (*c.reads[0].shape[:-1], 1)
    return [_kept(c.reads[0]), _own(c, "mean", statistics), _own(c, "rstd", statistics)]


def _input_keeps(c: Context) -> list[Kept]:
    return [_kept(c.reads[0])] if c.needs[0] else []


def _gate_keeps(c: Context) -> list[Kept]:
    """A product keeps both factors; the second is a half of its storage, and holds the whole."""
    return [_kept(c.reads[0]), _kept(c.reads[1])] if c.needs[0] else []


def _scale_keeps(c: Context) -> list[Kept]:
    """The input, if gamma trains. (Gamma itself is a parameter.)"""
    return [_kept(c.reads[0])] if c.trains("gamma") else []


# --- attention ------------------------------------------------------------------------------------------


def _attention_keeps(c: Context) -> list[Kept]:
    """Fused: q, k, v as views of one storage, the output and the log-sum-exp of each row.

    Explicit: scaled q, k, v as the batched product copies them, and the softmax. With one image or one
    head, k and v need no copy, so that they stay views which hold the whole qkv storage.
    """
    if not c.needs[0]:
        return []
    (batch, tokens, _), heads = c.reads[0].shape, c.op.attrs["heads"]
    qkv = _kept(c.reads[0])
    if c.op.attrs["path"] == "fused":
        return [qkv, _kept(c.writes), _own(c, "logsumexp", (batch, heads, tokens))]
    probabilities = _own(c, "softmax", (batch, heads, tokens, tokens))
    query = _own(c, "query", c.writes.shape)
    if batch == 1 or heads == 1:
        return [query, qkv, probabilities]
    return [query, _own(c, "key", c.writes.shape), _own(c, "value", c.writes.shape), probabilities]


def _attention_forward(c: Context) -> int:
    batch, tokens, width = c.writes.shape
    return 2 * FLOPS_PER_MAC * batch * tokens * tokens * width


def _attention_backward(c: Context) -> int:
    if not c.needs[0]:
        return 0
    forward = _attention_forward(c)
    return forward * 5 // 2 if c.op.attrs["path"] == "fused" else forward * 2


def _class_attention_forward(c: Context) -> int:
    """One query a head, the class token's, times all keys."""
    batch, tokens, width3 = c.reads[0].shape
    return FLOPS_PER_MAC * batch * tokens * width3 // 3


# --- dropping tokens ------------------------------------------------------------------------------------


def _dropped(c: Context) -> tuple[int, int, int]:
    """(batch, patch tokens in, patch tokens kept)."""
    batch, tokens, _ = c.reads[0].shape
    patches = tokens - c.op.attrs["prefix"]
    return batch, patches, kept_tokens(patches, c.op.attrs["keep"])


def _drop_keeps(c: Context) -> list[Kept]:
    """The 32-bit positions of the kept tokens and, if the dropped are fused, their weights."""
    batch, patches, kept = _dropped(c)
    if not c.needs[0]:
        return []
    positions = _own(c, "positions", (batch * kept,), "int32")
    return [positions, _own(c, "weights", (batch, 1, patches))] if c.op.attrs["fuse"] else [positions]


def _drop_forward(c: Context) -> int:
    """The weighted sum of the dropped tokens, as a product over all of them (weight 0 for the kept)."""
    batch, patches, _ = _dropped(c)
    return FLOPS_PER_MAC * batch * patches * c.reads[0].shape[-1] if c.op.attrs["fuse"] else 0


def _drop_backward(c: Context) -> int:
    return _drop_forward(c) * c.needs[0]


# --- loss -----------------------------------------------------------------------------------------------


def _loss_keeps(c: Context) -> list[Kept]:
    """Log-probabilities and the sum of class weights. (The labels are an input.)"""
    return [_own(c, "log_softmax", c.reads[0].shape), _own(c, "total_weight", ())] if c.needs[0] else []


RULES: dict[str, Rule] = {
    "patch_embed": Rule(_patch_keeps, _patch_forward, _patch_backward),
    "prefix_tokens": Rule(_nothing, _zero, _zero),
    "add_parameter": Rule(_nothing, _zero, _zero),
    "layer_norm": Rule(_norm_keeps, _zero, _zero),
    "linear": Rule(_linear_keeps, _linear_forward, _linear_backward),
    "attention": Rule(_attention_keeps, _attention_forward, _attention_backward),
    "class_attention": Rule(_nothing, _class_attention_forward, _zero),
    "drop_tokens": Rule(_drop_keeps, _drop_forward, _drop_backward),
    "gelu": Rule(_input_keeps, _zero, _zero),
    "silu_half": Rule(_input_keeps, _zero, _zero),
    "gate_half": Rule(_gate_keeps, _zero, _zero),
    "scale": Rule(_scale_keeps, _zero, _zero),
    "add": Rule(_nothing, _zero, _zero),
    "select_token": Rule(_nothing, _zero, _zero),
    "mean_tokens": Rule(_nothing, _zero, _zero),
    "cross_entropy": Rule(_loss_keeps, _zero, _zero),
}
