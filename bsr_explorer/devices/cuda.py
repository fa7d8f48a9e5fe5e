"""CUDA devices, by the rules of torch's kernels and of its caching allocator.

cuBLAS takes its workspace at its first product (``CUBLAS_WORKSPACE_CONFIG`` left alone; [schema], and 32 MiB on
Hopper). Attention is flash in 16 bits, else the memory-efficient kernel. Norms keep their statistics in fp32 whatever
is normed, and autocast runs norms and softmax in fp32.
"""

from __future__ import annotations

from bsr_explorer.devices.device import Device
from bsr_explorer.devices.gpus import DEFAULT, GPUS

CUDA = Device(
    name="cuda",
    title="CUDA",
    gpu=GPUS[DEFAULT],
    compared="not yet measured: by the rules of torch's CUDA kernels and allocator",
    granularity=512,
    number=0,
    workspaces={
        "forward": {"workspace of cuBLAS": 2**25, "workspace of cuBLASLt": 2**20},
        "backward": {"workspace of cuBLAS in backward": 2**25},
    },
    attention=("fused", "math", "flash", "efficient", "cudnn"),
    fused="efficient",
    fused_in_16_bits="cudnn",
    statistics="fp32",
    norms_take_both=False,
    softmax="fp32",
    loss_casts_scores=False,
    concatenates_formats=True,
    optimizer="foreach",
    optimizer_8bit="fused",
    at_once=2**23,
    packs_rows=True,
)
