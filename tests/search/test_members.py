"""What a family's configurations are run with, and the methods that its axes make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsr_explorer.methods import parse_method
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.search.axes import families
from bsr_explorer.search.members import Ways, made_by
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import SpaceSpec, Study

MakeStudy = Callable[..., Study]


@pytest.mark.parametrize("counts", ["peak", "saved"])
def test_costs_are_those_that_are_predicted(make_study: MakeStudy, counts: str) -> None:
    study = make_study()
    ways = Ways(study.config, (4, 2), counts)
    for batch in ways.batch_sizes:
        config = replace(study.config.with_method("last(k=1)+mesa"), batch_size=batch)
        expected = counted_bytes(config, counts), predict(config).train_flops
        assert ways.costs(config.how, batch) == expected


def test_every_value_of_every_axis_makes_a_method(make_study: MakeStudy) -> None:
    spec = SpaceSpec((), 1, (1,), families=("last+mesa(faithful=True)",), axes={"mesa": {"bits": [8, 4]}})
    (family,) = families(spec, Space(make_study()).geometry)
    made = made_by(family)
    assert len(made) == len(family)
    assert {method for _, method in made} >= {parse_method("last(k=2)+mesa(bits=4, faithful=True)")}
    assert len({values for values, _ in made}) == len(made)
