"""Making a call with tensors that have shapes and no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from bsr_explorer.models.traced.calls import Call, Place, Spec, mapped

FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""Within it, tensors have no memory."""


def kind_of_device(place: str) -> str:
    """What torch calls the device of a place (``devices.device_of``)."""
    return place.partition("/")[0]


def empty(spec: Spec, device: str) -> torch.Tensor:
    """A tensor that lies as is said.

    Args:
        device: a place, see ``devices.device_of``.
    """
    return torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=kind_of_device(device))


def results_of(call: Call, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Make a call with these tensors: what it makes, in the order of ``Call.made``."""
    given, tensors = tensors, list(tensors)
    for place, view, offset in call.views:
        tensors[place] = given[place].as_strided(
            view.shape, view.stride, given[place].storage_offset() + offset
        )

    def fill(leaf: Any) -> Any:
        return tensors[leaf.number] if isinstance(leaf, Place) else leaf

    result = call.function(*mapped(call.args, fill), **mapped(call.kwargs, fill))
    found: list[torch.Tensor] = []
    mapped(result, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    there = {id(tensor) for tensor in (*given, *tensors)}
    fresh = [*{id(each): each for each in found if id(each) not in there}.values()]
    of_views = {place for place, _, _ in call.views}
    for place in call.changes:
        fresh += [given[place], tensors[place]] if place in of_views else [tensors[place]]
    return fresh
