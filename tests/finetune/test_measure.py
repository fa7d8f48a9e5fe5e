"""Configurations measured: true to their predictions, and the same each time."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.measure import measure, measure_in_full, second_opinion
from bsr_explorer.prediction import predict

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy_2", 48, 3, 2, method="last(k=1)")


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("last(k=1)", "adamw"), ("full+checkpoint", "sgd_momentum"), ("drop({1: 0.5})", "adamw")],
)
def test_what_is_measured_is_what_was_predicted(method: str, optimizer: str) -> None:
    config = Config("toy_2", 48, 3, 2, method=method, optimizer=optimizer)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


def test_a_measurement_is_the_same_whatever_was_drawn_before() -> None:
    once = measure(CONFIG)
    torch.manual_seed(12345)
    again = measure(CONFIG)
    assert (again - once).rows == ()
    assert again.peak_bytes == once.peak_bytes


def test_of_the_toy_every_operation_is_counted() -> None:
    measured = measure_in_full(CONFIG)
    assert measured.uncounted == ()
    assert measured.ledger.forward_flops == predict(CONFIG).forward_flops


def test_a_second_opinion_counts_the_forward_pass() -> None:
    flops, unseen = second_opinion(CONFIG)
    one, _ = second_opinion(Config("toy_2", 48, 3, 1, method="last(k=1)"))
    assert flops == 2 * one > 0
    assert all(count > 0 for count in unseen.values())
