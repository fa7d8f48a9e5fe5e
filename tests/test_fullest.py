"""The step that holds most is among the few that are looked at: compared with all that may occur."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from bsr_explorer.config import Config
from bsr_explorer.methods.moving import InStep
from bsr_explorer.prediction import predict, steps_of

pytestmark = pytest.mark.usefixtures("toy")


@pytest.mark.parametrize(
    "method",
    [
        "lisa(k=2)",
        "lisa(k=1, forget=False)",
        "lisa(k=2)+mesa",
        "lisa(k=3)+drop({1: 0.5})",
        "alast(K=2)",
        "alast(K=3, stem=False)",
        "full+dropbp(rate=0.5, draw='count')",
        "last(k=3)+dropbp(rate=0.5, draw='count')",
        "lora(r=2)+dropbp(rate=0.75, draw='count')",
        "lisa(k=2)+checkpoint",
        "lisa(k=2)+offload(blocks=(0, 2))",
    ],
)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_no_step_holds_more_than_was_said(method: str, batch_size: int) -> None:
    config = Config("toy", 48, batch_size=batch_size, method=method)
    steps = config.how.steps(4)
    assert steps is not None
    ways = product(*(combinations(choice.among, choice.count) for choice in steps.choices))
    peaks = [
        predict(
            config.with_method(InStep(config.how, steps.training([part for some in way for part in some])))
        ).peak_bytes
        for way in ways
    ]
    said = predict(config).peak_bytes
    if "checkpoint" in method or "offload" in method:
        assert max(peaks) <= said
    else:
        assert max(peaks) == said


def test_where_all_may_train_at_once_that_is_the_fullest() -> None:
    config = Config("toy", 48, batch_size=2, method="full+dropbp")
    (fullest,) = steps_of(config).fullest
    assert predict(fullest).peak_bytes >= predict(config.with_method("full")).peak_bytes
