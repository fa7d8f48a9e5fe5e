"""What autocast casts within calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec
from bsr_explorer.models.traced.casts import casts


def _cast(function: Callable[..., Any], *shapes: tuple[int, ...], **kwargs: Any) -> tuple[int, ...]:
    specs = [Spec.of(torch.empty(shape)) for shape in shapes]
    given = tuple(Given("read", f"x{n}", spec) for n, spec in enumerate(specs))
    places = tuple(Place(n) for n in range(len(shapes)))
    return casts(Call("", function, places, kwargs, given, (Made("y", specs[0]),)), torch.bfloat16, "cpu")


def _by_transposed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.t()


@pytest.mark.parametrize(
    ("function", "shapes", "cast"),
    [
        (F.linear, ((4, 3), (5, 3), (5,)), (0, 1, 2)),
        (torch.add, ((4, 3), (4, 3)), ()),
        (F.layer_norm, ((4, 3),), ()),
        (_by_transposed, ((4, 3), (5, 3)), (0,)),  # of a view, the copy is no copy of the weight
    ],
)
def test_products_cast_what_they_are_given(
    function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], cast: tuple[int, ...]
) -> None:
    more = {"normalized_shape": (3,)} if function is F.layer_norm else {}
    assert _cast(function, *shapes, **more) == cast


def test_a_cast_that_is_asked_for_is_no_copy_of_autocasts() -> None:
    assert _cast(lambda x: x.to(torch.bfloat16), (4, 3)) == ()
