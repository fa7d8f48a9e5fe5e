"""The tape of a vision transformer's training step, operation by operation as timm runs it.

The names of operations are the module paths of the timm model, and the names of parameters are those
of its state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bsr_explorer.models.base import LEARNED, Selection
from bsr_explorer.models.vit.geometry import Geometry
from bsr_explorer.tape import Op, Parameter, Shape, Tape, Tensor


@dataclass
class _Writer:
    """Collects operations and parameters in order."""

    geometry: Geometry
    ops: list[Op] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def op(
        self,
        name: str,
        kind: str,
        reads: Sequence[str],
        writes: str,
        block: int | None = None,
        params: Mapping[str, tuple[str, Shape]] | None = None,
        **attrs: Any,
    ) -> str:
        """Add one operation and the parameters that it brings; returns the name of what it writes."""
        parts = {}
        for part, (path, shape) in (params or {}).items():
            self.parameters[path] = Parameter(path, shape, block)
            parts[part] = path
        self.ops.append(Op(name, kind, block, tuple(reads), writes, parts, attrs))
        return writes

    def norm(self, name: str, x: str, width: int, block: int | None = None) -> str:
        """A LayerNorm with weight and bias."""
        params = {"weight": (f"{name}.weight", (width,)), "bias": (f"{name}.bias", (width,))}
        return self.op(name, "layer_norm", [x], f"{name}.out", block, params)

    def linear(self, name: str, x: str, out: int, width: int, bias: bool, block: int | None = None) -> str:
        """A Linear layer of ``width`` inputs and ``out`` outputs."""
        params: dict[str, tuple[str, Shape]] = {"weight": (f"{name}.weight", (out, width))}
        if bias:
            params["bias"] = (f"{name}.bias", (out,))
        return self.op(name, "linear", [x], f"{name}.out", block, params)

    def scale(self, name: str, x: str, width: int, block: int | None) -> str:
        """A LayerScale."""
        return self.op(name, "scale", [x], f"{name}.out", block, {"gamma": (f"{name}.gamma", (width,))})

    def tape(self, *inputs: Tensor) -> Tape:
        """The finished tape."""
        g = self.geometry
        own = [name for name in _OWN if name in self.parameters]
        parameters = {name: self.parameters[name] for name in (*own, *self.parameters)}
        return Tape(inputs, parameters, tuple(self.ops), g.prefix_tokens, g.class_token)


_OWN = ("cls_token", "reg_token", "pos_embed")
"""Parameters that the model itself holds, which come before those of its modules."""


def step_tape(geometry: Geometry, batch_size: int, attention: str) -> Tape:
    """The whole step with every parameter training: images and labels in, loss out.

    Args:
        batch_size: images, B.
        attention: ``fused`` (one kernel) or ``math`` (explicit softmax).
    """
    writer = _Writer(geometry)
    x = _write_stem(writer)
    for block in range(geometry.depth):
        x = _write_block(writer, block, x, attention)
    _write_tail(writer, x)
    size = geometry.image_size
    return writer.tape(
        Tensor("images", (batch_size, geometry.channels, size, size), "images", role="input"),
        Tensor("labels", (batch_size,), "labels", dtype="int64", role="input"),
    )


def block_tape(geometry: Geometry, batch_size: int, tokens: int, attention: str) -> Tape:
    """One block alone, as block 0, fed with ``x`` of (B, tokens, D)."""
    writer = _Writer(geometry)
    _write_block(writer, 0, "x", attention)
    return writer.tape(Tensor("x", (batch_size, tokens, geometry.width), "x"))


def stem_tape(geometry: Geometry, batch_size: int) -> Tape:
    """What stands before the blocks: patch embedding, prefix tokens, position embedding."""
    writer = _Writer(geometry)
    _write_stem(writer)
    size = geometry.image_size
    return writer.tape(Tensor("images", (batch_size, geometry.channels, size, size), "images", role="input"))


def tail_tape(geometry: Geometry, batch_size: int, tokens: int) -> Tape:
    """What stands after the blocks: final norm, pooling, head and loss, fed with ``x`` (B, tokens, D)."""
    writer = _Writer(geometry)
    _write_tail(writer, "x")
    return writer.tape(
        Tensor("x", (batch_size, tokens, geometry.width), "x"),
        Tensor("labels", (batch_size,), "labels", dtype="int64", role="input"),
    )


def drop_tokens(tape: Tape, block: int, selection: Selection) -> Tape:
    """The tape with a token drop in a block."""
    here, prefix = f"blocks.{block}", tape.prefix_tokens
    if selection.keeps_all(tape.tensors[f"{here}.middle"].shape[1] - prefix):
        return tape
    attention = tape.op(f"{here}.attn", "attention")
    attrs: dict[str, Any] = {"prefix": prefix, "detached": not selection.faithful}
    criterion = selection.criterion
    scorer: list[Op] = []
    reads: tuple[str, ...]
    if criterion == LEARNED:
        tape, scorer = _with_scorer(tape, block)
        reads, attrs = (scorer[-1].writes,), {"prefix": prefix}
    elif selection.by_attention:
        reads, attrs["heads"] = attention.reads, attention.attrs["heads"]
    else:
        reads = (f"{here}.middle",)
    if criterion == "class_attention":
        attrs["path"] = attention.attrs["path"]
    if criterion == "random":
        attrs["dtype"] = "fp32"  # of random numbers in 16 bits, many would be equal
    scores = Op(
        f"{here}.drop",
        _SCORES[criterion],
        block,
        reads,
        f"{here}.scores",
        attrs=attrs,
        steady=criterion != "random" and selection.inference,  # else evaluation makes something else
    )
    mean = {"mean": True} if selection.fuse and selection.by_mean else {}
    drop = Op(
        f"{here}.drop",
        "drop_tokens",
        block,
        (f"{here}.middle", f"{here}.scores"),
        f"{here}.kept",
        attrs={"prefix": prefix, "keep": selection.keep, "fuse": selection.fuse, **mean},
    )
    residual = next(op for op in tape if op.writes == f"{here}.middle")
    tape = tape.insert_after(residual, drop, instead_of=f"{here}.middle")
    for op in (scores, *reversed(scorer)):
        tape = tape.insert_after(residual, op)
    return tape


def _with_scorer(tape: Tape, block: int) -> tuple[Tape, list[Op]]:
    """The tape with the parameters of the linear layer whose numbers become the scores of a drop, the block's last; and
    the operations of that layer."""
    here, x = f"blocks.{block}.drop.scorer", f"blocks.{block}.middle"
    shapes: dict[str, Shape] = {"weight": (1, tape.tensors[x].shape[-1]), "bias": (1,)}
    names = {part: f"{here}.{part}" for part in shapes}
    ops = []
    if lies_across(tape, x):
        ops.append(Op(f"blocks.{block}.drop", "rows", block, (x,), f"{here}.rows"))
        x = ops[-1].writes
    ops.append(Op(here, "linear", block, (x,), f"{here}.out", names))
    parameters = list(tape.parameters.values())
    last = max(place for place, p in enumerate(parameters) if p.block == block)
    parameters[last + 1 : last + 1] = [Parameter(names[part], shape, block) for part, shape in shapes.items()]
    return replace(tape, parameters={p.name: p for p in parameters}), ops


def lies_across(tape: Tape, x: str) -> bool:
    """Whether tokens still lie as the patch embedding's convolution has laid them, channel by channel. (A sum lies as
    its first summand does.)"""
    made = {op.writes: op for op in tape}
    while made[x].kind in ("add", "add_parameter"):
        x = made[x].reads[0]
    return made[x].kind == "patch_embed"


_SCORES = {
    "class_attention": "class_attention",
    "attention": "mean_attention",
    "norm": "token_norms",
    "random": "random_scores",
    LEARNED: "patch_softmax",
}
"""The kind of operation that gives each criterion's scores."""


def _write_stem(writer: _Writer) -> str:
    g = writer.geometry
    params: dict[str, tuple[str, Shape]] = {
        "weight": ("patch_embed.proj.weight", (g.width, g.channels, g.patch, g.patch))
    }
    if g.patch_bias:
        params["bias"] = ("patch_embed.proj.bias", (g.width,))
    x = writer.op("patch_embed.proj", "patch_embed", ["images"], "patch_embed.out", None, params)

    def positions(x: str, tokens: int) -> str:
        params = {"value": ("pos_embed", (1, tokens, g.width))}
        return writer.op("_pos_embed", "add_parameter", [x], "pos_embed.out", None, params)

    if g.position_embedding and not g.embed_prefix:
        x = positions(x, g.patches)
    prefix: dict[str, tuple[str, Shape]] = {}
    if g.class_token:
        prefix["class"] = ("cls_token", (1, 1, g.width))
    if g.register_tokens:
        prefix["registers"] = ("reg_token", (1, g.register_tokens, g.width))
    if prefix:
        x = writer.op("_pos_embed", "prefix_tokens", [x], "tokens", None, prefix)
    if g.position_embedding and g.embed_prefix:
        x = positions(x, g.tokens)
    return writer.norm("norm_pre", x, g.width) if g.pre_norm else x


def _write_block(writer: _Writer, block: int, x: str, attention: str) -> str:
    """x + LayerScale(attention(norm(x))), then the same with the MLP; returns the block's output."""
    g = writer.geometry
    here = f"blocks.{block}"
    branch = writer.norm(f"{here}.norm1", x, g.width, block)
    branch = writer.linear(f"{here}.attn.qkv", branch, 3 * g.width, g.width, g.qkv_bias, block)
    branch = writer.op(
        f"{here}.attn", "attention", [branch], f"{here}.attn.out", block, heads=g.heads, path=attention
    )
    branch = writer.linear(f"{here}.attn.proj", branch, g.width, g.width, g.proj_bias, block)
    if g.layer_scale:
        branch = writer.scale(f"{here}.ls1", branch, g.width, block)
    x = writer.op(here, "add", [x, branch], f"{here}.middle", block)

    branch = writer.norm(f"{here}.norm2", x, g.width, block)
    inner = g.hidden * (2 if g.mlp == "swiglu" else 1)
    branch = writer.linear(f"{here}.mlp.fc1", branch, inner, g.width, g.proj_bias, block)
    act = f"{here}.mlp.act"
    if g.mlp == "swiglu":  # silu of the first half times the second
        silu = writer.op(act, "silu_half", [branch], f"{act}.out", block)
        branch = writer.op(f"{here}.mlp", "gate_half", [silu, branch], f"{here}.mlp.gated", block)
    else:
        branch = writer.op(act, "gelu", [branch], f"{act}.out", block)
    branch = writer.linear(f"{here}.mlp.fc2", branch, g.width, g.hidden, g.proj_bias, block)
    if g.layer_scale:
        branch = writer.scale(f"{here}.ls2", branch, g.width, block)
    return writer.op(here, "add", [x, branch], f"{here}.out", block)


def _write_tail(writer: _Writer, x: str) -> None:
    g = writer.geometry
    if g.final_norm == "norm":
        x = writer.norm("norm", x, g.width)
    if g.pool == "token":
        x = writer.op("", "select_token", [x], "pooled")
    else:
        x = writer.op("", "mean_tokens", [x], "pooled", prefix=g.prefix_tokens)
    if g.final_norm == "fc_norm":
        x = writer.norm("fc_norm", x, g.width)
    x = writer.linear("head", x, g.num_classes, g.width, bias=True)
    if g.tasks:  # as models.tasks.loss_within does it
        others = writer.op("loss", "other_tasks", ["labels"], "loss.others", tasks=g.tasks, dtype="bool")
        x = writer.op("loss", "masked_fill", [x, others], "loss.own")
        writer.ops[-1] = replace(writer.ops[-1], until="loss")  # a local variable there, whatever casts it
    writer.op("loss", "cross_entropy", [x, "labels"], "loss.out")
