"""Attention whose kept tensors are packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bsr_explorer.storages import Narrow, Packing, attention
from bsr_explorer.storages.keeper import Keeper
from tests.storages.packed import (
    HEADS,
    LOSSLESS,
    SCALE,
    _by_head,
    _of_softmax,
    every_packing,
    explicit,
    fused,
    gradients,
    operands,
    stored,
)


@every_packing
def test_explicit_attention_takes_the_stored_softmax(packing: Packing) -> None:
    t = operands("qkv")
    torch.manual_seed(5)
    ours = gradients(explicit(t, packing), t)["qkv"]
    torch.manual_seed(5)
    qkv = stored(t["qkv"], packing)
    q, k, v = _by_head(t["qkv"].detach())
    softmax = stored(((q * SCALE) @ k.transpose(-2, -1)).softmax(-1), _of_softmax(packing))
    q, k, v = _by_head(qkv)
    torch.manual_seed(9)
    g = torch.randn(2, 5, 6).view(2, 5, HEADS, 2).transpose(1, 2)
    of_softmax = g @ v.mT
    of_scores = softmax * (of_softmax - (of_softmax * softmax).sum(-1, keepdim=True))
    parts = [of_scores @ k * SCALE, of_scores.mT @ q * SCALE, softmax.mT @ g]
    expected = torch.stack([part.transpose(1, 2) for part in parts], dim=2).reshape(2, 5, 18)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kernel", "dtype"), [("flash", torch.float16), ("efficient", torch.float32)])
def test_fused_kernels_of_a_gpu(kernel: str, dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 5, 3 * 3 * 16, device="cuda", dtype=dtype, requires_grad=True)
    kept = Keeper(Narrow("fp32")).cuda().keep(qkv)
    ours = attention.FusedAttention.apply(qkv, HEADS, kernel, kept)
    q, k, v = qkv.view(2, 5, 3, HEADS, 16).permute(2, 0, 3, 1, 4).unbind(0)
    plain: Any = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, -1)
    g = torch.randn_like(plain)
    torch.testing.assert_close(torch.autograd.grad(ours, qkv, g), torch.autograd.grad(plain, qkv, g))


def test_both_paths_are_one_function() -> None:
    t = operands("qkv")
    paths = [run(t, LOSSLESS) for run in (fused, explicit)]
    torch.testing.assert_close(*paths)
    torch.testing.assert_close(*(gradients(path, t)["qkv"] for path in paths))
