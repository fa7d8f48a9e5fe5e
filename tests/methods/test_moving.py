"""Methods whose steps differ: what holds of each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure_steps
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.methods import METHODS, Alast, DropBP, Lisa, Mesa, parse_method
from bsr_explorer.methods.moving import InStep, Moving, first_of, modules_of
from bsr_explorer.methods.steps import EVERYTHING, Shape
from bsr_explorer.prediction import predict, spread, steps_of, tape_of
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

MOVING = [name for name, method in METHODS.items() if issubclass(method, Moving)]
TOY = Config("toy", 48, batch_size=4)
every_moving = pytest.mark.parametrize("name", MOVING)


def of(name: str) -> Config:
    """The method on a model of 4 blocks, so that it changes soon."""
    quick = {
        "lisa": "lisa(k=2, every=1)",
        "autofreeze": "autofreeze(every=1)",
        "alast": "alast(K=2, alpha=1000.0, draw='sample')",
        "slimfit": "slimfit(freeze=0.5)",
    }
    return TOY.with_method(quick.get(name, name))


@every_moving
def test_every_kind_of_step_is_measured_as_predicted(name: str) -> None:
    for one, measured in measure_steps(of(name)).items():
        difference = predict(one) - measured.ledger
        assert (difference.rows, difference.peak_bytes) == ((), 0), str(one.method)


@every_moving
def test_a_training_measures_its_steps_as_predicted(name: str) -> None:
    fidelity = Fidelity(train_size=24, val_size=20, epochs=2)
    measured = fine_tune(of(name), fidelity=fidelity, weights="random").measured
    assert measured is not None
    steps = measured["steps"]
    assert steps["shapes"] > 1 and steps["peaks"]
    assert (steps["saved_off"], steps["peaks_off"]) == (0, 0)
    held = predict(of(name))
    assert steps["saved_bytes"]["most"] <= held.saved_bytes
    assert measured["peak_bytes"] <= held.peak_bytes


@every_moving
def test_it_goes_on_within_its_schedule_to_the_last_bit(name: str, tmp_path: Path) -> None:
    check_it_goes_on(str(of(name).method), tmp_path, epochs=2, after=(3, 7))


@every_moving
def test_shares_of_the_steps_add_up_and_no_step_exceeds_the_fullest(name: str) -> None:
    steps = steps_of(of(name))
    assert sum(share for share, _ in steps.expected) == pytest.approx(1)
    held = predict(of(name)).peak_bytes
    assert all(predict(one).peak_bytes <= held for _, one in steps.expected)
    differ = spread(of(name))
    assert differ is not None and differ.known
    for least, mean, most in (differ.saved_bytes, differ.peak_bytes, differ.train_flops):
        assert least <= mean <= most


@every_moving
def test_it_stands_in_a_composition_and_turns_there(name: str) -> None:
    config = TOY.with_method(f"{of(name).method}+mesa")
    kinds = [one for _, one in steps_of(config).expected]
    one = min(kinds, key=lambda each: predict(each).saved_bytes)
    model = build(one)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {p.name for p in tape_of(one).parameters.values() if p.trains}


def test_two_whose_steps_differ_are_not_composed() -> None:
    with pytest.raises(UserError, match="both choose how steps differ"):
        parse_method("lisa+dropbp")


def test_what_needs_steps_that_are_alike_is_refused() -> None:
    parse_method("full+asi+dropbp")
    for text in ("asi+alast", "wasi+alast", "wasi+slimfit", "sparse_tuning+dropbp"):
        with pytest.raises(
            UserError, match=r"needs the same (tokens|layers) in each step, and .* changes them"
        ):
            parse_method(text)


def test_what_rests_keeps_the_optimisers_state_unless_it_is_forgotten() -> None:
    rests = Shape(rests=("blocks.0", "blocks.1"))
    for forget in (True, False):
        tape = tape_of(TOY.with_method(InStep(Lisa(2, forget=forget), rests)))
        mine = tape.parameters["blocks.0.attn.qkv.weight"]
        assert (mine.trains, mine.has_state) == (False, not forget)


def test_what_a_method_remembers_is_counted_and_not_saved_with_the_weights() -> None:
    config = of("slimfit")
    model = build(config)
    entries = model.get_buffer("remembered.values")
    assert tape_of(config).buffers["remembered.values"].shape == tuple(entries.shape)
    assert set(config.how.merge(dict(model.state_dict()))) == set(build(TOY.with_method("full")).state_dict())
    assert model.to(torch.bfloat16).get_buffer("remembered.values").dtype == torch.float32


def test_branches_of_a_block() -> None:
    assert first_of("blocks.3.attn") == "blocks.3.norm1"
    assert modules_of("blocks.3.mlp") == ("blocks.3.norm2", "blocks.3.mlp", "blocks.3.ls2")


def test_a_step_says_whose_it_is() -> None:
    assert str(InStep(DropBP() + Mesa(), EVERYTHING)).endswith(" in a step (all trains)")
    assert InStep(Alast(), EVERYTHING).at_inference is None
