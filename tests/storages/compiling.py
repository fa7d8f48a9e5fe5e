"""Compile the kernels for a card that need not be there, with the arguments that real tensors give them.

    python tests/storages/compiling.py 90

Prints a list of {name, bytes of machine code, whether it has a fused multiply-add of fp32}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from bsr_explorer.storages import Quantized, Sparse, fused


def main(capability: int) -> None:
    """Let the packings launch, and compile instead."""
    compiled: dict[str, dict[str, Any]] = {}

    def compile_it(kernel: Any, grid: Any, *arguments: Any, warps: int = 4, **constants: Any) -> None:
        signature = dict(zip(kernel.arg_names, map(mangle_type, arguments), strict=False))
        signature.update(dict.fromkeys(constants, "constexpr"))
        key = f"{kernel.__name__}{signature}{constants}"
        if key in compiled:
            return
        made: Any = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps, "enable_fp_fusion": False},
        )
        fuses = "fma.rn.f32" in made.asm["ptx"]
        compiled[key] = {"name": kernel.__name__, "bytes": len(made.asm["cubin"]), "fuses": fuses}

    fused.launch = compile_it
    packings = [Quantized(8, 3), Quantized(8, 2, 1), Quantized(4, 6), Quantized(2, 1)]
    sparse = [Sparse(0.9), Sparse(0.5, "fp32", parts=3), Sparse(0.5, "bf16")]
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.zeros(2, 2, 1200, dtype=dtype)
        for few in packings:
            packed = few.pack_fused(x, torch.zeros(2, few.count) if few.bits == 8 else None)
            few.unpack_fused(packed, x.shape, dtype)
        for largest in sparse:
            largest.unpack_fused(largest.pack_fused(x), x.shape, dtype)
    print(json.dumps(list(compiled.values())))


if __name__ == "__main__":
    main(int(sys.argv[1]))
