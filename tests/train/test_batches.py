"""Batches are sent to a device, and made ready there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from bsr_explorer.data.loader import loader
from bsr_explorer.train.batches import on_device
from tests.data.making import load


def images_of(how: str) -> DataLoader[Any]:
    part = load("digits", train_size=40).train
    return loader(part, 8, shuffle=True, seed=1, drop_last=False, raw=how == "raw")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_are_made_ready_once(dtype: torch.dtype) -> None:
    """Those that come raw, and no others."""
    raw, plain = (list(on_device(torch.device("cpu"), images_of(how), dtype)) for how in ("raw", "plain"))
    for mine, theirs in zip(raw, plain, strict=True):
        assert mine[0].dtype == dtype
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])
    for (images, _), (expected, _) in zip(plain, images_of("plain"), strict=True):
        assert torch.equal(images, expected.to(dtype))


@pytest.mark.gpu
def test_a_gpu_waits_for_no_batch() -> None:
    expected = list(on_device(torch.device("cpu"), images_of("raw"), torch.float32))
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = list(on_device(torch.device("cuda"), images_of("raw"), torch.float32))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(mine[0].cpu(), theirs[0], rtol=1e-6, atol=1e-6)
