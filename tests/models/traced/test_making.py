"""Calls made with tensors without memory."""

from __future__ import annotations

import torch

from bsr_explorer.models.traced.calls import Call, Given, Made, Place, Spec
from bsr_explorer.models.traced.making import FAKE, empty, results_of


def test_tensors_lie_as_is_said() -> None:
    spec = Spec((2, 3), (1, 2), torch.bfloat16)
    with FAKE:
        assert Spec.of(empty(spec, "cpu")) == spec


def test_results_are_what_is_new_and_what_was_changed() -> None:
    spec = Spec((4,), (1,), torch.float32)
    given = (Given("read", "x", spec), Given("read", "y", spec))
    with FAKE:
        x, y = empty(spec, "cpu"), empty(spec, "cpu")
        plain = Call("", torch.add, (Place(0), Place(1)), {}, given, (Made("z", spec),))
        (made,) = results_of(plain, [x, y])
        assert made is not x and made.shape == (4,)
        in_place = Call("", torch.Tensor.add_, (Place(0), Place(1)), {}, given, (Made("z", spec),), (0,))
        (changed,) = results_of(in_place, [x, y])
        assert changed is x
