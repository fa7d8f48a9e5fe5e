"""What a GPU that is not here would run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec
from bsr_explorer.models.traced.kernels import CUDNN, Attention, Kernels, on_cpu, with_backward
from bsr_explorer.models.traced.making import FAKE
from bsr_explorer.models.traced.observed import Observed
from bsr_explorer.operations.call import Facts, Holds

H100 = Kernels("cuda/h100")


def _attention(width: int = 32, dtype: torch.dtype = torch.float32, **more: object) -> torch.Tensor:
    function = H100.of(F.scaled_dot_product_attention, "scaled_dot_product_attention", "attn")
    with FAKE:
        x = torch.empty(2, 3, 5, width, dtype=dtype, device="cuda")
        out: torch.Tensor = function(x, x, x, **more)
    return out


@pytest.mark.parametrize(
    ("place", "asked", "dtype", "runs"),
    [
        ("cuda/h100", "fused", torch.float32, "efficient"),
        ("cuda/h100", "fused", torch.bfloat16, "cudnn"),
        ("cuda/a100", "fused", torch.bfloat16, "flash"),
        ("cuda/h100", "flash", torch.bfloat16, "flash"),
    ],
)
def test_attention_is_the_kernel_that_the_card_picks(
    place: str, asked: str, dtype: torch.dtype, runs: str
) -> None:
    function = Kernels(place, asked).of(F.scaled_dot_product_attention, "scaled_dot_product_attention", "")
    assert isinstance(function, Attention) and function.path(dtype) == runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_has_the_shape_of_its_queries(dtype: torch.dtype) -> None:
    assert _attention(dtype=dtype).shape == (2, 3, 5, 32)


@pytest.mark.parametrize("more", [{"dropout_p": 0.1}, {"attn_mask": torch.zeros(5, 5)}, {"width": 20}])
def test_attention_whose_kernel_is_not_known_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(UserError, match="attn calls attention with a mask, dropout, or heads of"):
        _attention(**more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CUDNN)
def test_what_cudnn_runs_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"layer calls {name}, which cuDNN runs on a GPU"):
        H100.of(torch.relu, name, "layer")
    assert H100.of(torch.relu, "relu", "layer") is torch.relu


def _call(dtype: torch.dtype) -> Call:
    function = H100.of(F.scaled_dot_product_attention, "scaled_dot_product_attention", "")
    spec = Spec((2, 3, 5, 32), (480, 160, 32, 1), dtype)
    given = tuple(Given("read", name, spec) for name in "qkv")
    return Call("", function, (Place(0), Place(1), Place(2)), {}, given, (Made("y", spec),))


def test_backward_computes_what_a_cpu_does() -> None:
    call = _call(torch.float32)
    here = Observed(on_cpu(call)).facts((True,) * 3)
    there = Observed(call, None, "cuda/h100").bounding().facts((True,) * 3)
    assert (there.forward, there.backward) == (here.forward, here.backward)
    assert (
        sum(held.bytes for held in there.kept if held.what == "own") == 2 * 3 * 32 * 4
    )  # padded log-sum-exp


def test_numbers_in_the_hosts_memory_are_not_the_devices() -> None:
    seen = Facts((Holds("own", 0, 8), Holds("own", 1, 768)), 1, 0, (), (), (True,))
    cpu = Facts((), 1, 5, (), (), (True,))
    assert with_backward(seen, _call(torch.float32), cpu).kept == (Holds("own", 1, 768),)
    assert with_backward(seen, _call(torch.bfloat16), cpu).kept == seen.kept
    assert with_backward(seen, _call(torch.bfloat16), cpu).backward == 5
