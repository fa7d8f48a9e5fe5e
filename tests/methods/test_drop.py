"""Dropping tokens, beside any choice of what trains. That it is the authors' drop is tested of BSR."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Bsr, Full, parse_method
from bsr_explorer.methods.drop import Drop, halves_at_quarters
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.prediction import predict, tape_of, tokens_by_block
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.search.axes import families
from bsr_explorer.search.laid import adds_up
from bsr_explorer.store.space import SpaceSpec

HALF = "drop({3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)"


def test_it_is_written_with_its_rates_first() -> None:
    assert str(parse_method("drop")) == HALF
    assert parse_method("drop(keep={3: 0.5, 6: 0.5, 9: 0.5})") == Drop()
    assert str(Drop({2: 0.25}, fuse=False, faithful=False)) == "drop({2: 0.25}, fuse=False, faithful=False)"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (f"blocks(3, 7, 11)+{HALF}", "bsr"),
        (f"{HALF}+blocks(3, 7, 11)", "bsr"),
        (f"last(k=2)+{HALF}", "bsr(blocks=(10, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)"),
        ("linear+drop({4: 0.5}, fuse=False)", "bsr(blocks=(), keep={4: 0.5}, fuse=False, norm=False)"),
        ("blocks(1)+drop({4: 1.0})+mesa", "bsr(blocks=(1,), keep={})+mesa"),
        ("full+drop({4: 1.0})", "full"),
    ],
)
def test_a_sum_that_is_bsr_is_known_as_bsr(text: str, known: str) -> None:
    mine, well_known = Config(method=text), Config(method=known)
    assert mine.key(12) == well_known.key(12)
    assert mine.canonical(12).how.canonical(12) == mine.canonical(12).how
    assert predict(mine).rows == predict(well_known).rows


@pytest.mark.parametrize(
    "beside", ["bitfit", "linear", "full", "last(k=1)", "bitfit+mesa", "full+checkpoint"]
)
def test_it_goes_with_any_choice_of_what_trains(beside: str) -> None:
    config = Config("deit_t", 64, 10, 2, method=f"{beside}+{HALF}")
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)
    trains = {name for name, p in tape_of(config).parameters.items() if p.trains}
    alone = {name for name, p in tape_of(config.with_method(beside)).parameters.items() if p.trains}
    assert trains == alone
    assert tokens_by_block(config) == tokens_by_block(config.with_method("bsr"))


def test_what_keeps_every_token_is_nothing() -> None:
    assert Drop({3: 1.0}).canonical(12) == Full()
    assert Drop({3: 1.0}).at_inference is None
    assert Drop({3: 0.5, 4: 1.0}, fuse=False, faithful=False).canonical(12) == Drop({3: 0.5}, fuse=False)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("bsr+drop", "both choose which tokens stay"),
        ("drop({12: 0.5})", "block 12 is out of range"),
        ("drop({1: 0})", "a keep rate must be above 0"),
        ("drop([1, 2])", "keep must say a rate for each block"),
    ],
)
def test_what_it_refuses(method: str, said: str) -> None:
    with pytest.raises(UserError, match="--method") as refused:
        predict(Config(method=method))
    assert said in str(refused.value)


def test_a_model_without_a_class_token_has_no_scores() -> None:
    with pytest.raises(UserError, match="the model has none"):
        Drop().check(12, class_token=False)
    assert parse_method("drop", None) == Drop(halves_at_quarters(12))


def test_bsr_is_its_sum() -> None:
    bsr = Bsr((1, 2), {3: 0.5}, fuse=False, norm=False)
    assert str(bsr.of_blocks + bsr.of_tokens) == "blocks(1, 2, norm=False)+drop({3: 0.5}, fuse=False)"
    assert (bsr.of_blocks + bsr.of_tokens).canonical(12) == bsr.canonical(12)


# --- in training alone ----------------------------------------------------------------------------------

ALONE = "drop({1: 0.5}, fuse=False, inference=False)"


@pytest.mark.parametrize("text", [f"full+{ALONE}", "bsr(blocks=(1,), keep={1: 0.5}, inference=False)"])
def test_in_training_alone_a_step_costs_the_same_and_a_plain_model_is_left(toy: str, text: str) -> None:
    config = Config(toy, 48, 5, 2, method=text)
    assert parse_method(text) == config.how and "inference=False" in str(config.how)
    assert config.how.at_inference is None
    always = config.with_method(text.replace(", inference=False", ""))
    assert always.how.at_inference is not None
    assert predict(config).rows == predict(always).rows
    assert config.key(4) != always.key(4)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


def test_in_evaluation_it_computes_what_the_plain_model_does_and_in_training_what_the_drop_does(
    toy: str,
) -> None:
    config = Config(toy, 48, 5, 2, method=f"full+{ALONE}")
    plain, alone, always = (
        build(config.with_method(method), seed=1)
        for method in ("full", config.how, "full+drop({1: 0.5}, fuse=False)")
    )
    images = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(alone.train()(images), always.train()(images))
        assert torch.equal(alone.eval()(images), plain.eval()(images))
        assert not torch.equal(always.eval()(images), plain(images))
        assert torch.equal(alone.train()(images), always.train()(images))  # nothing is left of the evaluation
    assert alone.state_dict().keys() == plain.state_dict().keys()


def test_what_evaluation_makes_of_images_is_not_kept_for_training(toy: str) -> None:
    config = Config(toy, 48, 5, 2, method=f"last(k=1)+{ALONE}")
    assert [stage.frozen for stage in stages_of(config)[1:]] == [True, False, True, False]


def test_where_nothing_is_dropped_it_is_not_said() -> None:
    assert Bsr((1,), {}, inference=False).canonical(12) == Bsr((1,), {}).canonical(12)
    summed = parse_method("blocks(1)+drop({3: 0.5}, inference=False)").canonical(12)
    assert summed == Bsr((1,), {3: 0.5}, inference=False)
    with pytest.raises(UserError, match="inference must be True or False"):
        parse_method("drop(inference=0)")


@pytest.mark.parametrize("text", ["bsr(inference=False)", "blocks+drop(inference=False)"])
def test_a_search_lists_it_by_itself(text: str) -> None:
    geometry = KNOWN["deit_tiny_patch16_224"]
    spec = SpaceSpec(families=(text,), max_blocks=1)
    assert not any(adds_up(family, geometry) for family in families(spec, geometry))
