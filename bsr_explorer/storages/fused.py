"""Packing and unpacking by kernels of our own (``kernels``), where the device's record says so and they work there.

They need Triton, and a GPU (or Triton's interpreter). At the first use on a device they are compared with torch's
path; whatever goes wrong, torch's path stays, and that is said once. ``BSR_EXPLORER_KERNELS=torch`` switches them off.
"""

from __future__ import annotations

import ctypes
import math
import os
import warnings
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from bsr_explorer.storages import tiles
from bsr_explorer.storages.tiles import BYTES, CHUNK, PIECE, TALL, WIDE, Groups

if TYPE_CHECKING:
    from bsr_explorer.storages.base import Packed
    from bsr_explorer.storages.sparse import Sparse
    from bsr_explorer.storages.storage import Shape

SWITCH = "BSR_EXPLORER_KERNELS"
"""The environment variable that switches them off."""

_MOST_AT_ONCE = 2**10
"""Extremes that a program reads at once."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Run a kernel on the device of its first argument, a tensor."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)


# --- few bits -------------------------------------------------------------------------------------------


def pack_few(
    x: torch.Tensor,
    packed: Packed,
    groups: Groups,
    bits: int,
    running: torch.Tensor | None = None,
    ema: float = 0.0,
) -> None:
    """Fill what ``Quantized.form`` made: ranges (2, groups), then numbers, rounded stochastically.

    Args:
        x: (images, …).
        running: ranges of earlier steps, (2, groups), brought up to date and used.
        ema: how much of them stays.
    """
    from bsr_explorer.storages import kernels

    x = x.contiguous()
    numbers, ranges = packed
    scratch = torch.empty(groups.scratch, dtype=torch.int32, device=x.device)
    scales = scratch[-groups.count :].view(torch.float32)
    _extremes(x, scratch, groups)
    within = groups.inner if groups.by_columns else 1
    launch(
        kernels.settle,
        (groups.count,),
        *(scratch, *ranges, ranges.stride(1), scales, ranges if running is None else running),
        *(groups.count, within, groups.extremes),
        LEVELS=2**bits - 1,
        REMEMBERS=running is not None,
        WEIGHT=ctypes.c_float(1 - ema).value,
        BLOCK=min(_MOST_AT_ONCE, _power(groups.extremes)),
    )
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=x.device)  # drawn where it is read
    elements, row = x[0].numel(), numbers.shape[1]
    parts = math.ceil(row / (BYTES * (bits // 2)))
    launch(
        kernels.pack_numbers,
        (len(x) * parts,),
        *(x, ranges, ranges.stride(1), scales, seed, numbers),
        *(elements, row, groups.inner, groups.count, parts),
        BITS=bits,
        BLOCK=BYTES,
    )


def _extremes(x: torch.Tensor, keys: torch.Tensor, groups: Groups) -> None:
    from bsr_explorer.storages import kernels

    outer, count, inner, shares = groups.outer, groups.count, groups.inner, groups.shares
    if groups.by_columns:
        launch(
            kernels.extremes_of_columns,
            (math.ceil(count * inner / WIDE), shares),
            *(x, keys, outer, count * inner, groups.rows_each, shares),
            TALL=TALL,
            WIDE=WIDE,
        )
    else:
        launch(
            kernels.extremes_of_runs,
            (outer * count * shares,),
            *(x, keys, inner, count, shares, groups.extremes),
            CHUNK=CHUNK,
            BLOCK=_MOST_AT_ONCE,
        )


def unpack_few(packed: Packed, x: torch.Tensor, groups: Groups, bits: int) -> None:
    """Fill a contiguous tensor with what ``pack_few`` filled, or ``packing``."""
    from bsr_explorer.storages import kernels

    numbers, ranges = packed
    elements, row = x[0].numel(), numbers.shape[1]
    parts = math.ceil(row / BYTES)
    launch(
        kernels.unpack_numbers,
        (len(x) * parts,),
        *(numbers, *ranges, ranges.stride(1), x, elements, row, groups.inner, groups.count, parts),
        BITS=bits,
        INVERSE=ctypes.c_float(1 / (2**bits - 1)).value if x.is_cuda else 0.0,
        BLOCK=BYTES,
    )


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


# --- sparse ---------------------------------------------------------------------------------------------


def pack_largest(x: torch.Tensor, packed: Packed, sparse: Sparse) -> None:
    """Fill what ``Sparse.form`` made: the values, their ranges if they are quantised, and the bitmap.

    Args:
        x: (images, …, parts · channels).
    """
    values, bits = packed[0], packed[-1]
    if sparse.quantize is None:
        _compact(x.contiguous(), values, bits, sparse.parts)
        return
    numbers, values = values, _values(x, bits, sparse)
    _compact(x.contiguous(), values, bits, sparse.parts)
    pack_few(values, (numbers, packed[1].t()), Groups(1, *values.shape), sparse.quantize)


def _values(x: torch.Tensor, bits: torch.Tensor, sparse: Sparse) -> torch.Tensor:
    """Room for values before they are quantised, or afterwards."""
    return x.new_empty(len(bits), sparse.kept(x[0].numel() // sparse.parts))


def _compact(x: torch.Tensor, values: torch.Tensor, bits: torch.Tensor, parts: int) -> None:
    from bsr_explorer.storages import sparse_kernels

    pieces, kept = values.shape
    elements = x[0].numel() // parts
    shares = tiles.tiles(elements)
    scratch = torch.empty(tiles.sparse_scratch(pieces, elements), dtype=torch.int32, device=x.device)
    found, before = scratch[: 2 * pieces], scratch[2 * pieces :]
    launch(
        sparse_kernels.thresholds,
        (pieces,),
        *(x, found, before, kept, elements, shares),
        **_parts(parts, x),
        BLOCK=PIECE,
        warps=16,
    )
    narrows = values.dtype == torch.float16 != x.dtype
    launch(
        sparse_kernels.compact,
        (pieces * shares,),
        *(x, found, before, values, bits, kept, elements, bits.shape[1], shares),
        LARGEST=torch.finfo(torch.float16).max if narrows else 0.0,
        **_parts(parts, x),
        BLOCK=PIECE,
        warps=8,
    )


def unpack_largest(packed: Packed, sparse: Sparse, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor of what ``pack_largest`` filled, or ``packing``."""
    from bsr_explorer.storages import sparse_kernels

    values, bits = packed[0], packed[-1]
    x = torch.empty(shape, dtype=dtype, device=bits.device)
    if sparse.quantize is not None:
        numbers, values = values, _values(x, bits, sparse)
        unpack_few((numbers, packed[1].t()), values, Groups(1, *values.shape), sparse.quantize)
    elements = x[0].numel() // sparse.parts
    shares = tiles.tiles(elements)
    launch(
        sparse_kernels.expand,
        (len(bits) * shares,),
        *(values, bits, x, values.shape[1], elements, bits.shape[1], shares),
        **_parts(sparse.parts, x),
        BLOCK=PIECE,
        warps=8,
    )
    return x


def _parts(parts: int, x: torch.Tensor) -> dict[str, int]:
    return {"PARTS": parts, "CHANNELS": x.shape[-1] // parts if parts > 1 else 0}


# --- whether they are used ------------------------------------------------------------------------------


def usable(device: torch.device) -> bool:
    """Whether they work on a device, as far as one look at a small tensor tells; if not, that is said once."""
    return os.environ.get(SWITCH) != "torch" and _works(device)


@cache
def _works(device: torch.device) -> bool:
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            wrong = next(_differences(device), None)
    except Exception as error:  # of a compiler, a driver, or an import: each has its own
        wrong = f"{type(error).__name__}: {error}".splitlines()[0]
    if wrong is not None:
        warnings.warn(
            f"packing on {device} runs without kernels of its own, and slower: {wrong}", stacklevel=2
        )
    return wrong is None


def _differences(device: torch.device) -> Iterator[str]:
    """On what kernels and torch's path do not agree. (The last bit of what is computed may differ: torch promises its
    own from no version to the next.) It takes some seconds where Triton has not compiled them before."""
    from bsr_explorer.storages.quantized import Quantized
    from bsr_explorer.storages.sparse import Sparse

    x = torch.arange(2 * 5 * 1200, device=device).mul(0.37).sin().round(decimals=2).view(2, 5, 1200)
    shape, near = tuple(x.shape), partial(torch.allclose, rtol=2**-20, atol=2**-20)
    every = (Quantized(8, 3), Quantized(8, 5, 1), Quantized(4, 6), Quantized(2, 1))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        some = x.to(dtype)
        for few in every if dtype == torch.float32 else every[:1]:
            running = [torch.full((2, few.count), 0.5, device=device) for _ in range(2)]
            ours, theirs = few.pack_fused(some, running[0]), few.pack_plainly(some, running[1])
            if not (near(ours[1], theirs[1]) and torch.equal(ours[1], running[0])):
                yield f"{few} finds other ranges of {dtype}"
            wide = [way(ours, shape, torch.float32) for way in (few.unpack_fused, few.unpack_plainly)]
            if not near(wide[0], wide[1]):
                yield f"{few} unpacks other numbers of {dtype}"
            away = wide[0] - few.unpack_plainly(theirs, shape, torch.float32)
            if bool(away.abs().max() > 1.01 * theirs[1][1].max() / (2**few.bits - 1)):
                yield f"{few} rounds {dtype} by more than a step"
        for sparse in (
            (Sparse(0.9), Sparse(0.5, "fp32", parts=3)) if dtype == torch.float32 else (Sparse(0.9),)
        ):
            ours, theirs = sparse.pack_fused(some), sparse.pack_plainly(some)
            if not all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)):
                yield f"{sparse} packs {dtype} otherwise"
            both = [way(theirs, shape, dtype) for way in (sparse.unpack_fused, sparse.unpack_plainly)]
            if not torch.equal(both[0], both[1]):
                yield f"{sparse} unpacks {dtype} otherwise"
