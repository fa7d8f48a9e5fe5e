"""A derivative in 2 bits: it is the published formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from bsr_explorer.storages import Steps
from bsr_explorer.storages.functions import Gelu
from bsr_explorer.storages.keeper import Keeper
from bsr_explorer.storages.steps import AT, JUMPS, LEVELS


def formula(x: torch.Tensor) -> torch.Tensor:
    """Σ aₖ·[x > cₖ]."""
    return sum((a * (x > c) for a, c in zip(JUMPS, AT, strict=True)), torch.zeros_like(x))


@pytest.mark.parametrize("channels", [1, 3, 8, 30])
def test_the_gradient_is_that_of_the_published_step_function(channels: int) -> None:
    torch.manual_seed(0)
    x, gradient = 4 * torch.randn(3, 5, channels), torch.randn(3, 5, channels)
    x.requires_grad_()
    out = Gelu.apply(x, "none", Keeper(Steps()).keep(x), False)
    assert torch.equal(out, gelu(x))
    (found,) = torch.autograd.grad((out * gradient).sum(), x)
    torch.testing.assert_close(found, gradient * formula(x.detach()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_is_told_apart_and_where_it_begins(dtype: torch.dtype) -> None:
    packing = Steps()
    x = torch.tensor([[-100.0, -3.2, -3.0, -0.01, 0.0, 3.0, 3.3, 100.0, float(AT[1])]], dtype=dtype)
    found = packing.unpack(packing.pack(x), (1, 9), torch.float32)
    steps = [0, 0, 1, 1, 2, 2, 3, 3, int(formula(x.float())[0, -1] > 0.5) + 1]
    torch.testing.assert_close(found, torch.tensor(LEVELS)[steps].unsqueeze(0))


def test_it_takes_two_bits_an_element() -> None:
    assert Steps().bytes((4, 50, 1536), "fp32") == 4 * 50 * 1536 // 4
    assert Steps().bytes((3, 5, 1), "bf16") == 3 * 2


def test_its_primitive_is_near_gelu() -> None:
    """For which its constants were fitted."""
    x = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    primitive = torch.cumsum(formula(x), 0) * (x[1] - x[0])
    assert (primitive - (gelu(x) - gelu(x)[0])).abs().max() < 0.25
