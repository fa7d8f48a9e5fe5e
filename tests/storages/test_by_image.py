"""Windows and heads, packed as parts of their image."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.devices import DEVICES
from bsr_explorer.storages import Quantized, Sparse
from bsr_explorer.storages.by_image import ByImage, by_image

CPU = DEVICES["cpu"]


@pytest.mark.parametrize("shape", [(8, 5, 6), (8, 3, 5, 5), (8, 6)])
def test_windows_are_packed_as_their_image_is(shape: tuple[int, ...]) -> None:
    x, how = torch.randn(shape), Sparse(0.5, "fp32")
    images = x.view(2, 4 * shape[1], *shape[2:])
    packing = by_image(how, shape, 2)
    packed = packing.pack(x)
    assert [tensor.shape for tensor in packed] == [tensor.shape for tensor in packing.form(x)]
    assert all(map(torch.equal, packed, how.pack(images)))
    again = packing.unpack(packed, shape, torch.float32)
    assert torch.equal(again.view(images.shape), how.unpack(packed, tuple(images.shape), torch.float32))
    size = sum(tensor.numel() * tensor.itemsize for tensor in packed)
    assert packing.bytes(shape, "fp32") == size == sum(packing.pieces(shape, "fp32"))
    whole = tuple(images.shape)
    assert packing.pack_course(shape, "fp32", CPU) == how.pack_course(whole, "fp32", CPU)
    assert packing.unpack_course(shape, "fp32", CPU) == how.unpack_course(whole, "fp32", CPU)


def test_what_is_a_row_an_image_or_has_no_threshold_is_packed_as_it_is() -> None:
    assert by_image(Sparse(), (2, 5, 6), 2) == Sparse()
    assert by_image(Sparse(), (3, 5, 6), 2) == Sparse()
    assert by_image(Quantized(), (8, 5, 6), 2) == Quantized()
    assert by_image(Sparse(), (8, 5, 6), 2) == ByImage(Sparse(), 2)
