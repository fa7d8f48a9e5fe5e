"""Traces of built models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.following import follow
from tests.models.traced import small


class _ByBatch(nn.Module):
    """Calls more where there are more images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = sum(self.head(image.mean(dim=(1, 2))) for image in images).expand(len(images), 10)  # type: ignore[assignment, union-attr]
        return out


def test_parameters_and_buffers_are_kept_without_memory() -> None:
    followed = follow(small.build(), 16, "fused", "fp32", "cpu")
    names = [name for name, _ in followed.parameters]
    assert names == [name for name, _ in small.build().named_parameters()]
    assert all(p.is_meta for _, p in (*followed.parameters, *followed.buffers))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_trace_has_the_number_format_of_a_precision(precision: str, dtype: torch.dtype) -> None:
    followed = follow(small.beside(), 8, "fused", precision, "cpu")
    assert followed.trace.inputs["images"].dtype is dtype
    assert {p.dtype for _, p in followed.parameters} == {dtype}


def test_a_model_that_calls_by_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match="depends on the number of images"):
        follow(_ByBatch(), 8, "fused", "fp32", "cpu")
