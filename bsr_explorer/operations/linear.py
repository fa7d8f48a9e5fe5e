"""Matrix products with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from bsr_explorer.operations.kind import Kind, in_16_bits
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Forward, Kept, Rule, give_all, kept, own, write
from bsr_explorer.storages.storage import Factors, Shape
from bsr_explorer.units import FLOPS_PER_MAC, WIDTH

# --- linear ---------------------------------------------------------------------------------------------


def _shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(…, in) → (…, out), of a weight (out, in)."""
    return (*reads[0].shape[:-1], params["weight"].shape[0])


def _keeps(c: Context) -> list[Kept]:
    """The input if the weight trains; the weight if the input needs a gradient."""
    reads = [kept(c.reads[0])] if c.trains("weight") else []
    return [*reads, kept(c.params["weight"])] if c.needs[0] else reads


def _rows(c: Context) -> tuple[int, int]:
    """The result as a matrix: (rows, out)."""
    out = c.writes.shape[-1]
    return c.writes.numel // out, out


def _forward(c: Context) -> int:
    rows, _ = _rows(c)
    return FLOPS_PER_MAC * rows * c.params["weight"].numel


def _backward(c: Context) -> int:
    return _forward(c) * (c.trains("weight") + c.needs[0])


def _factors(c: Context) -> Factors | None:
    """How its weight's gradient is made of what is kept of its input, if that is not brought back."""
    return c.op.stores(c.reads[0].name).factors


def _backward_packed(c: Context) -> int:
    factors = _factors(c)
    if factors is None or not c.trains("weight"):
        return _backward(c)
    return _forward(c) * c.needs[0] + factors.gradient_flops(c.reads[0].shape, c.writes.shape[-1])


def _flattens(c: Context) -> bool:
    """Whether the product is one of rows, which are made of tokens and made tokens again."""
    return len(c.reads[0].shape) > 2


def _unwind(c: Context, b: Backward) -> None:
    """The bias's gradient is summed up after the node's own call, by the engine."""
    if c.needs[0]:
        b.give(0, view=_flattens(c))
    if c.trains("weight"):
        b.give_part("weight")
    b.end_call()
    if c.trains("bias"):
        b.give_part("bias")
        b.scratch(*c.device.sum_scratch(*_rows(c)))


def _unwind_packed(c: Context, b: Backward) -> None:
    factors = _factors(c)
    if c.trains("weight") and factors is not None:
        of = c.reads[0].shape, c.writes.shape[-1], c.reads[0].dtype
        for sizes in factors.gradient_steps(*of):
            b.scratch(*sizes)
        scratch = factors.gradient_scratch(*of)
        b.take(c.own("factors"), scratch)
        b.give_part("weight")
        b.drop(c.own("factors"))
    elif c.trains("weight"):
        b.bring_back(c.reads[0].storage)
        b.give_part("weight")
        b.bring_back()
    if c.needs[0]:
        b.give(0, view=_flattens(c))
    if c.trains("bias"):
        b.give_part("bias")
        b.scratch(*c.device.sum_scratch(*_rows(c)))
    b.end_call()


_LINEAR = Rule(keeps=_keeps, forward=_forward, backward=_backward, unwind=_unwind)

LINEAR = Kind(
    name="linear",
    summary="x·Wᵀ + b",
    shape=_shape,
    plain=_LINEAR,
    packed=_LINEAR.packed(backward=_backward_packed, unwind=_unwind_packed),
    autocast=in_16_bits,
)

# --- a part of whose weight trains ----------------------------------------------------------------------


def _columns(c: Context) -> bool:
    return "columns" in c.params


def _trained(c: Context) -> Part:
    """The columns (out, r), rows (r, in) or entries (r,)."""
    return next(c.params[part] for part in ("columns", "rows", "entries") if part in c.params)


def _selected(c: Context) -> Shape:
    """(…, r): the channels of the input that the columns read."""
    return (*c.reads[0].shape[:-1], _trained(c).shape[1])


def _partial_keeps(c: Context) -> list[Kept]:
    """For columns, the channels that they read; for rows and entries, the whole input. The weight, if the input needs a
    gradient."""
    reads = own(c, "selected", _selected(c), c.reads[0].dtype) if _columns(c) else kept(c.reads[0])
    return [reads, kept(c.params["weight"])] if c.needs[0] else [reads]


def _partial_backward(c: Context) -> int:
    """Of entries, the whole weight's gradient is made."""
    rows = c.reads[0].numel // c.reads[0].shape[-1]
    trained = c.params["weight"] if "entries" in c.params else _trained(c)
    trains = any(c.trains(part) for part in ("columns", "rows", "entries"))
    return FLOPS_PER_MAC * rows * trained.numel * trains + _forward(c) * c.needs[0]


def _partial_run(c: Context, m: Forward) -> None:
    write(c, m)
    if _columns(c):
        m.take(c.own("selected"), prod(_selected(c)) * WIDTH[c.reads[0].dtype])
        m.drop(c.own("selected"))


def _partial_unwind(c: Context, b: Backward) -> None:
    """For rows, their outputs' gradients are laid side by side first; entries are picked from the whole gradient."""
    if _columns(c):
        b.give_part("columns")
    elif "entries" in c.params:
        b.take(c.own("whole gradient"), c.params["weight"].numel * WIDTH[c.writes.dtype])
        b.give_part("entries")
        b.drop(c.own("whole gradient"))
    else:
        outputs = c.writes.numel // c.writes.shape[-1] * _trained(c).shape[0]
        b.take(c.own("outputs"), outputs * WIDTH[c.writes.dtype])
        b.give_part("rows")
        b.drop(c.own("outputs"))
    if c.needs[0]:
        b.give(0, view=True)
    b.end_call()


PARTIAL_LINEAR = Kind(
    name="partial_linear",
    summary="x·Wᵀ + b, where some columns, rows or entries of W train",
    shape=_shape,
    plain=Rule(
        keeps=_partial_keeps,
        forward=_forward,
        backward=_partial_backward,
        run=_partial_run,
        unwind=_partial_unwind,
        keeps_results=True,
    ),
    autocast=in_16_bits,
    casts_itself=True,
)

# --- patch embedding ------------------------------------------------------------------------------------


def _patch_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, C, H, W) → (B, patches, out)."""
    batch, _, height, width = reads[0].shape
    out, _, patch, _ = params["weight"].shape
    return (batch, (height // patch) * (width // patch), out)


def _patch_keeps(c: Context) -> list[Kept]:
    """A convolution keeps its input and weight as soon as it is recorded, even for its bias alone."""
    return [kept(c.reads[0]), kept(c.params["weight"])] if c.live else []


def _patch_forward(c: Context) -> int:
    batch, tokens, _ = c.writes.shape
    return FLOPS_PER_MAC * batch * tokens * c.params["weight"].numel


def _patch_backward(c: Context) -> int:
    return _patch_forward(c) * (c.trains("weight") + c.needs[0])


def _patch_unwind(c: Context, b: Backward) -> None:
    """oneDNN makes the weight's gradient beside the bias's, whether it is wanted or not. For cuDNN the gradient that
    arrives is laid channel by channel first."""
    if c.device.gpu is not None:
        _patch_unwind_cuda(c, b)
        return
    give_all(c, b)
    if not c.trains("weight"):
        b.take(c.own("unwanted gradient"), c.params["weight"].bytes)
        b.drop(c.own("unwanted gradient"))


def _cudnn_copies(c: Context) -> int:
    """Bytes of images, weight and result as cuDNN copies them for its kernels, channels last and filled up to 16 bytes
    a pixel: as recorded on a Hopper with cuDNN 9."""
    width = WIDTH[c.writes.dtype]
    batch, channels, height, across = c.reads[0].shape
    out, _, patch, _ = c.params["weight"].shape
    filled = -(-channels * width // 16) * 16
    return batch * height * across * filled + out * patch * patch * filled + c.writes.bytes


def _patch_run(c: Context, m: Forward) -> None:
    """cuDNN multiplies few rows in 16 bits, and all in 32, without copies. (Where many begin lies between 8,192 and
    25,088 in what is recorded.)"""
    write(c, m)
    if c.device.gpu is not None and WIDTH[c.writes.dtype] < WIDTH["fp32"] and _rows(c)[0] > 2**14:
        m.scratch(_cudnn_copies(c) + 512)


def _patch_unwind_cuda(c: Context, b: Backward) -> None:
    """The weight's gradient in 16 bits is added up in 32, in three parts."""
    if c.trains("weight"):
        b.take(c.own("gradient by channel"), c.writes.bytes)
        b.give_part("weight")
        out, _, patch, _ = c.params["weight"].shape
        narrow = WIDTH[c.writes.dtype] < WIDTH["fp32"]
        parts = 3 * out * patch * patch * 8 * WIDTH["fp32"] if narrow else 0
        b.scratch(_cudnn_copies(c) + parts + 144)
        b.drop(c.own("gradient by channel"))
    if c.trains("bias"):
        b.give_part("bias")
        b.scratch(*c.device.sum_scratch(*_rows(c)))


PATCH_EMBED = Kind(
    name="patch_embed",
    summary="images to patch tokens, a convolution whose stride is its kernel",
    shape=_patch_shape,
    plain=Rule(
        keeps=_patch_keeps,
        forward=_patch_forward,
        backward=_patch_backward,
        run=_patch_run,
        unwind=_patch_unwind,
    ),
    autocast=in_16_bits,
)
