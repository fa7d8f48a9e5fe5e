"""What autocast and a device do with a kind, by the helpers that kinds share."""

from __future__ import annotations

import pytest

from bsr_explorer.devices import CPU, CUDA, Device
from bsr_explorer.operations import KINDS, Kind
from bsr_explorer.operations.kind import Casting, in_16_bits, in_32_bits, widest
from bsr_explorer.operations.op import Op


@pytest.mark.parametrize("narrow", ["bf16", "fp16"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=["cpu", "cuda"])
def test_products_are_narrow_and_losses_wide(narrow: str, device: Device) -> None:
    assert in_16_bits(("fp32",), narrow, device) == Casting(narrow)
    assert in_32_bits((narrow,), narrow, device) == Casting("fp32")
    assert widest((narrow, "fp32"), narrow, device) == Casting()


def test_a_norm_of_narrow_numbers_is_cast_where_the_device_does_not_take_both() -> None:
    norm = KINDS["layer_norm"]
    assert norm.autocast(("bf16",), "bf16", CUDA) == Casting("fp32")
    assert norm.autocast(("bf16",), "bf16", CPU) == Casting(None, {"dtype": "bf16", "statistics": "fp32"})
    assert norm.autocast(("fp32",), "bf16", CUDA) == norm.autocast(("fp32",), "bf16", CPU) == Casting()


@pytest.mark.parametrize(("device", "softmax"), [(CPU, "fp16"), (CUDA, "fp32")], ids=["cpu", "cuda"])
def test_the_format_of_a_softmax_is_the_devices(device: Device, softmax: str) -> None:
    assert KINDS["attention"].autocast(("fp16",), "fp16", device).attrs == {"softmax": softmax}
    scores = KINDS["class_attention"].autocast(("fp16",), "fp16", device)
    assert scores == Casting(None, {"softmax": softmax, "dtype": softmax})


def test_a_kind_says_whether_a_gradient_passes() -> None:
    kind = Kind(name="any", summary="any")
    assert kind.carries(Op("", "any", None, ("x",), "y"))
    assert not kind.carries(Op("", "any", None, ("x",), "y", attrs={"detached": True}))
