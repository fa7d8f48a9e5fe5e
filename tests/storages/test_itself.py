"""A tensor as it is."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.devices import DEVICES
from bsr_explorer.storages import Itself, Rebuilt
from bsr_explorer.storages.keeper import Keeper


def test_it_is_neither_packed_nor_copied() -> None:
    x = torch.randn(2, 3, 4)
    kept = Keeper(Itself()).keep(x)
    assert kept.itself
    assert kept.restore(kept.tensors).data_ptr() == x.data_ptr()
    assert Itself().bytes((2, 3, 4), "fp32") == x.nbytes


@pytest.mark.parametrize(("how", "scratch"), [(Itself(), 0), (Itself().cast_from("fp32"), 96)])
def test_what_is_cast_is_wide_first(how: Itself, scratch: int) -> None:
    assert how.unpack_scratch((2, 3, 4), "bf16", DEVICES["cpu"]) == scratch
    assert Rebuilt(Itself()).cast_from("fp32") == Rebuilt(Itself("fp32"))
