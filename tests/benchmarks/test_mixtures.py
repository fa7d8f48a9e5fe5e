"""Mixtures of experts against real steps."""

from __future__ import annotations

import pytest

from benchmarks import mixtures
from benchmarks.steps import compare
from bsr_explorer.config import Config
from bsr_explorer.prediction import predict

SMALL = "moe_vit(toy, blocks=(1, 3), experts=4, top=2)"


def test_there_are_enough_of_them() -> None:
    found = mixtures.configs()
    assert len({*found}) == len(found) >= 60


@pytest.mark.thorough
@pytest.mark.parametrize("config", mixtures.configs()[::30], ids=str)
def test_one_is_predicted(config: Config) -> None:
    assert not compare(config)["off"]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("model", [SMALL, f"{SMALL[:-1]}, capacity=1.25)"])
def test_every_routing_saves_as_much(model: str) -> None:
    config = Config(model, 48, 10, 3, method="full", optimizer="sgd")
    found = list(mixtures.routed(config, 5))
    assert {saved for saved, _ in found} == {predict(config).saved_bytes}
    assert len({fullest for _, fullest in found}) > 1
