"""The space of a study file: what may stand in it, and what is left out of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.store.space import FAMILIES, SpaceSpec


def test_lists_become_tuples_so_that_a_space_can_be_compared() -> None:
    lists: dict[str, Any] = {"start": ["linear"], "drop_at": [3], "keep": [0.5], "batch_sizes": [4]}
    assert SpaceSpec(**lists) == SpaceSpec(("linear",), None, (3,), (0.5,), batch_sizes=(4,))


def test_what_a_space_of_bsr_alone_does_not_need_is_not_written() -> None:
    assert SpaceSpec().families == FAMILIES
    assert not {"families", "axes"} & SpaceSpec().to_toml().keys()
    said = SpaceSpec(families=("mesa",), axes={"mesa": {"bits": [8]}}).to_toml()
    assert (said["families"], said["axes"]) == (("mesa",), {"mesa": {"bits": [8]}})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"families": ()}, "[space] families: needs at least one"),
        ({"families": ("bsr+",)}, "--method"),
        ({"lr": (0.0,)}, "[space] lr: 0.0 is no learning rate"),
        ({"lr": (math.inf,)}, "[space] lr: inf is no learning rate"),
        ({"lr": (True,)}, "[space] lr: True is no learning rate"),
        ({"lr": (1e-3, 1e-3)}, "[space] lr: (0.001, 0.001) names a rate twice"),
        ({"keep": (True,)}, "[space] keep: True is no keep rate"),
        ({"batch_sizes": (True,)}, "--batch-size: True is no number of images"),
    ],
)
def test_what_is_no_space_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        SpaceSpec(**spec)
    assert words in str(error.value)
