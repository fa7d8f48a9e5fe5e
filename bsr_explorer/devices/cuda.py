"""CUDA devices, by the rules of torch's kernels and of its caching allocator.

Attention is cuDNN's in 16 bits where torch prefers it (Hopper and the large Blackwell), else flash, else the
memory-efficient kernel. Norms keep their statistics in fp32 whatever is normed, and autocast runs norms and softmax in
fp32. Compared with what an H200 did in 38 steps (``tests/traces``); other cards follow from the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.metadata import version

from bsr_explorer.devices.caching import ROUNDING, Caching, caching
from bsr_explorer.devices.device import Device
from bsr_explorer.devices.gpus import CONTEXT, DEFAULT, GPUS, Gpu

KiB, MiB = 2**10, 2**20


def on(gpu: Gpu) -> Device:
    """CUDA on a card, as the torch that is installed here runs it."""
    return _on(gpu, _installed(), caching(os.environ))


@lru_cache(maxsize=64)
def _on(gpu: Gpu, torch: tuple[int, int], how: Caching) -> Device:
    return Device(
        name="cuda",
        title="CUDA",
        gpu=gpu,
        compared="with the allocator's record of 38 real steps on an H200"
        + ("" if gpu.capability == (9, 0) else f", not on {gpu.title}")
        + (f", not with {how.said}" if how.said else ""),
        granularity=ROUNDING,
        caching=how,
        context=CONTEXT,
        caches=True,
        number=0,
        workspaces=workspaces(gpu, torch, os.environ),
        attention=("fused", "math", "flash", "efficient", "cudnn"),
        fused="efficient",
        fused_in_16_bits=_fused_in_16_bits(gpu, torch, os.environ),
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


@cache
def _installed() -> tuple[int, int]:
    major, minor, *_ = version("torch").split(".")
    return int(major), int(minor)


def _fused_in_16_bits(gpu: Gpu, torch: tuple[int, int], environ: Mapping[str, str]) -> str:
    """What ``scaled_dot_product_attention`` picks (``check_prefer_cudnn_attention`` in ATen's ``sdp_utils.cpp``; the
    cuDNN that it waits for came with torch 2.11)."""
    preferred = gpu.capability in ((9, 0), (10, 0)) and torch >= (2, 11)
    if preferred and "TORCH_CUDNN_SDPA_DEPRIORITIZED" not in environ:
        return "cudnn"
    return "flash" if gpu.capability >= (8, 0) else "efficient"


def workspaces(
    gpu: Gpu, torch: tuple[int, int], environ: Mapping[str, str]
) -> Mapping[str, Mapping[str, int]]:
    """What cuBLAS and cuBLASLt take for their first product, and keep.

    cuBLAS has a workspace for each thread that multiplies: forward and autograd's. cuBLASLt, which adds biases, had one
    of its own until torch 2.12 lets it use the other's (pull request 168175). Sizes are ATen's
    (``CublasHandlePool.cpp``): 32 MiB on Hopper, from torch 2.12 on Blackwell too (175344); else what
    ``:4096:2:16:8`` comes to.

    Args:
        torch: its version.
        environ: ``CUBLAS_WORKSPACE_CONFIG``, ``CUBLASLT_WORKSPACE_SIZE`` and ``TORCH_CUBLASLT_UNIFIED_WORKSPACE`` are
            heeded.
    """
    major, _ = gpu.capability
    large = major == 9 or (major >= 10 and torch >= (2, 12))
    size = _configured(environ.get("CUBLAS_WORKSPACE_CONFIG", ""), 32 * MiB if large else 8_519_680)
    unified = environ.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "1" if torch >= (2, 12) else "0") == "1"
    own = int(environ.get("CUBLASLT_WORKSPACE_SIZE") or KiB) * KiB
    forward = {"workspace of cuBLAS": size, "workspace of cuBLASLt": 0 if unified else own}
    backward = {"workspace of cuBLAS in backward": size}
    return {
        phase: {name: size for name, size in of.items() if size}
        for phase, of in (("forward", forward), ("backward", backward))
    }


def _configured(said: str, otherwise: int) -> int:
    """``:KiB:COUNT`` pairs, summed up; what cuBLAS cannot read it leaves alone."""
    parts = [part for part in said.split(":") if part]
    if not parts or len(parts) % 2 or not all(part.isdigit() for part in parts):
        return otherwise
    return sum(int(kib) * KiB * int(count) for kib, count in zip(parts[::2], parts[1::2], strict=True))


CUDA = on(GPUS[DEFAULT])
"""On the card that is predicted for where none is named."""
