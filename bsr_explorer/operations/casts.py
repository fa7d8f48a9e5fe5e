"""Casts between number formats, as autocast inserts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Rule
from bsr_explorer.storages.storage import Shape

CAST = Kind(name="cast", summary="a tensor in another number format", inserted=True)


def _shape_of_parameter(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    return params["value"].shape


def _unwind_parameter(c: Context, b: Backward) -> None:
    b.give_part("value")


CAST_PARAMETER = Kind(
    name="cast_parameter",
    summary="a copy of a parameter in another number format",
    shape=_shape_of_parameter,
    plain=Rule(unwind=_unwind_parameter),
    inserted=True,
)
