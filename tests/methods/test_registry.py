"""Every method, with its defaults, on a real small model: what it says, what it predicts, what is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure, second_opinion
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.prediction import geometry_of, predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

DEPTH = 12
every_method = pytest.mark.parametrize("name", METHODS)


def _config(name: str) -> Config:
    """A model of 4 blocks, and the method as it is where nothing is said of it."""
    small = Config("toy", image_size=64, num_classes=10, batch_size=2)
    return small.with_method(parse_method(name, geometry_of(small)))


@every_method
def test_a_method_stands_under_its_name(name: str) -> None:
    assert METHODS[name].name == name


@every_method
def test_a_method_says_what_it_does_and_whose_it_is(name: str) -> None:
    assert METHODS[name].summary.strip()
    assert METHODS[name].citation.strip()


@every_method
def test_its_expression_makes_it_again(name: str) -> None:
    method = METHODS[name]()
    assert parse_method(str(method)) == method
    assert type(parse_method(str(method))) is METHODS[name]


@every_method
def test_its_canonical_form_is_canonical_and_can_be_written(name: str) -> None:
    once = METHODS[name]().canonical(DEPTH)
    assert once.canonical(DEPTH) == once
    assert parse_method(str(once)) == once


@every_method
def test_its_canonical_form_costs_the_same(name: str) -> None:
    config = _config(name)
    assert predict(config.canonical(4)).rows == predict(config).rows


@every_method
@pytest.mark.parametrize("depth", [1, 2, 5, 12, 24, 40])
@pytest.mark.parametrize("class_token", [True, False])
def test_what_is_left_out_goes_with_any_model(name: str, depth: int, class_token: bool) -> None:
    pool: Any = {} if class_token else {"pool": "avg", "final_norm": "fc_norm"}
    geometry = replace(
        KNOWN["deit_tiny_patch16_224"], depth=depth, image_size=64, class_token=class_token, **pool
    )
    method = parse_method(name, geometry)
    method.rewrite(step_tape(geometry, 2, "fused"))  # which refuses what does not go
    assert parse_method(str(method)) == method
    if depth == DEPTH and class_token:
        assert method == METHODS[name]()


@every_method
def test_tape_and_model_train_the_same_parameters(name: str) -> None:
    tape, model = tape_of(_config(name)), build(_config(name))
    expected = {parameter: p.trains for parameter, p in tape.parameters.items()}
    assert {parameter: p.requires_grad for parameter, p in model.named_parameters()} == expected


@every_method
def test_what_is_predicted_is_measured_operation_by_operation(name: str) -> None:
    difference = predict(_config(name)) - measure(_config(name))
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@every_method
def test_another_counter_can_trace_it(name: str) -> None:
    forward, unseen = second_opinion(_config(name))
    assert (
        0.8 < forward / predict(_config(name)).forward_flops < 1.1
    )  # it counts norms, and no fused attention
    assert unseen
