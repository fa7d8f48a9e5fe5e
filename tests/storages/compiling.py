"""Compile the kernels for a card that need not be there, with the arguments that real tensors give them.

    python tests/storages/compiling.py 90

Triton's own way from a call to machine code, but for the launch. Prints a list of {name, bytes of machine code, whether
it has a fused multiply-add of fp32}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bsr_explorer.storages import Quantized, Sparse, fused


class Card:
    """A driver of a card that is not there."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The usual one."""
        return 0


def main(capability: int) -> None:
    """Let the packings launch, and only compile."""
    compiled: dict[int, dict[str, Any]] = {}

    def compile_it(kernel: Any, grid: Any, *arguments: Any, warps: int = 4, **constants: Any) -> None:
        made = kernel.warmup(*arguments, **constants, grid=grid, num_warps=warps, enable_fp_fusion=False)
        fuses = "fma.rn.f32" in made.asm["ptx"]
        compiled[id(made)] = {"name": kernel.__name__, "bytes": len(made.asm["cubin"]), "fuses": fuses}

    driver.set_active(Card(capability))  # type: ignore[no-untyped-call]
    fused.launch = compile_it
    packings = [Quantized(8, 3), Quantized(8, 2, 1), Quantized(4, 6), Quantized(2, 1), Quantized(4, 1200)]
    sparse = [Sparse(0.9), Sparse(0.5, "fp32", parts=3), Sparse(0.5, "bf16"), Sparse(0.5, quantize=4)]
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((2, 2, 1200), (1, 1, 1200)):  # ones and multiples of 16 are compiled apart
            x = torch.zeros(shape, dtype=dtype)
            for few in packings:
                if x.shape[few.axis] % few.count == 0:
                    packed = few.pack_fused(x, torch.zeros(2, few.count) if few.bits == 8 else None)
                    few.unpack_fused(packed, shape, dtype)
            for largest in sparse:
                largest.unpack_fused(largest.pack_fused(x), shape, dtype)
    one = torch.zeros(1, 1)
    for packing in (packings[3], sparse[0]):
        packing.unpack_fused(packing.pack_fused(one), (1, 1), one.dtype)
    print(json.dumps(list(compiled.values())))


if __name__ == "__main__":
    main(int(sys.argv[1]))
