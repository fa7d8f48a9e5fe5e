"""Families whose configurations are predicted one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.search.listed import MOST_ONE_BY_ONE
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import SpaceSpec, Study
from tests.search.spaces import spaced

MakeStudy = Callable[..., Study]


def test_what_a_method_refuses_is_no_configuration(make_study: MakeStudy) -> None:
    space = spaced(make_study, "last", axes={"last": {"k": [2, 3, 4, 5, 6]}})
    assert len(space) == 3


def test_too_many_to_be_predicted_one_by_one_are_refused_with_what_to_do(make_study: MakeStudy) -> None:
    spec = SpaceSpec((), 12, (3, 6, 9), families=("bsr(faithful=False)",))
    study = make_study(config={"model": "deit_t", "image_size": 64}, space=spec)
    with pytest.raises(UserError) as error:
        Space(study)
    assert f"has 221,184 configurations, more than the {MOST_ONE_BY_ONE:,} that are predicted" in str(
        error.value
    )
    assert "give fewer values to its axes" in str(error.value)
