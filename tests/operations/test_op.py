"""What an operation says of what it keeps, and the bytes of tensors and parameters."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.operations.op import EVERYTHING, Op, Parameter, Tensor
from bsr_explorer.storages import Narrow
from bsr_explorer.storages.storage import DENSE
from bsr_explorer.units import WIDTH


def test_a_parameter_knows_its_bytes() -> None:
    assert Parameter("w", (4, 3), 0).bytes == 48
    assert Parameter("w", (4, 3), 0, dtype="bf16").bytes == 24


@given(st.lists(st.integers(1, 50), max_size=4).map(tuple), st.sampled_from(sorted(WIDTH)))
def test_a_tensor_has_its_elements_bytes(shape: tuple[int, ...], dtype: str) -> None:
    tensor = Tensor("x", shape, "x", dtype)
    assert (tensor.numel, tensor.bytes) == (math.prod(shape), math.prod(shape) * WIDTH[dtype])


def test_what_is_said_of_one_tensor_goes_before_what_is_said_of_everything() -> None:
    one, all_others = Narrow("fp16"), Narrow("bf16")
    op = Op("fc", "linear", None, ("x",), "y", stored={"x": one, EVERYTHING: all_others})
    assert (op.stores("x"), op.stores("w")) == (one, all_others)
    assert Op("fc", "linear", None, ("x",), "y").stores("x") is DENSE


def test_it_packs_where_a_storage_is_not_dense() -> None:
    assert Op("fc", "linear", None, ("x",), "y", stored={"x": Narrow()}).packs
    assert not Op("fc", "linear", None, ("x",), "y", stored={"x": DENSE}).packs
