"""Sixteen bits, or as wide as it was."""

from __future__ import annotations

import torch

from bsr_explorer.storages import Narrow


def test_fp32_loses_nothing_and_is_a_copy() -> None:
    x = torch.randn(2, 3, 4)
    packed = Narrow("fp32").pack(x)
    again = Narrow("fp32").unpack(packed, (2, 3, 4), torch.float32)
    assert torch.equal(again, x)
    assert again.data_ptr() not in (packed[0].data_ptr(), x.data_ptr())


def test_fp16_rounds_and_stays_finite() -> None:
    x = torch.tensor([[1e9, 1 / 3]])
    again = Narrow("fp16").unpack(Narrow("fp16").pack(x), (1, 2), torch.float32)
    assert torch.equal(again, torch.tensor([[65504.0, float(torch.tensor(1 / 3).half())]]))
