"""By what tokens are dropped: how it is written, what it costs, what is refused, how it is searched and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.methods.criteria import CLASS_ATTENTION, criteria_of
from bsr_explorer.methods.drop import Drop
from bsr_explorer.models.base import CRITERIA
from bsr_explorer.prediction import geometry_of, predict, tokens_by_block
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.search.features import Table, profile
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import SpaceSpec, Study
from tests.formats import every_way
from tests.methods.interrupted import check_it_goes_on

WITHOUT = "vit_wee_patch16_reg1_gap_256"  # mean pooling, a register, no class token
OTHERS = [each for each in CRITERIA if each != CLASS_ATTENTION]
every_other = pytest.mark.parametrize("criterion", OTHERS)


def test_the_authors_criterion_is_not_written() -> None:
    assert parse_method("bsr(criterion='class_attention')") == Bsr()
    assert str(Drop(criterion="norm")) == "drop({3: 0.5, 6: 0.5, 9: 0.5}, fuse=True, criterion='norm')"
    assert parse_method(str(Bsr(criterion="random"))) == Bsr(criterion="random")
    assert "criterion" not in str(Bsr()) + str(Drop())


@pytest.mark.parametrize("method", ["bsr(criterion='l2')", "drop(criterion=3)", "bsr(criterion=None)"])
def test_another_criterion_is_refused_with_those_that_there_are(method: str) -> None:
    with pytest.raises(UserError, match="tokens can be dropped by class_attention, attention, norm, random"):
        parse_method(method)


def test_canonical_forms_say_it_where_it_matters() -> None:
    assert Bsr((1,), {}, criterion="norm").canonical(12) == Bsr((1,), {}, fuse=False)
    cheaper = Drop({3: 0.5}, faithful=False, criterion="norm")
    assert cheaper.canonical(12) == Drop({3: 0.5}, criterion="norm")
    assert Drop({3: 1.0}, criterion="norm").at_inference is None
    summed = parse_method("blocks(3, 7, 11)+drop(criterion='random')").canonical(12)
    assert summed == Bsr(criterion="random")


def test_a_model_without_a_class_token_is_told_what_it_can_give() -> None:
    assert criteria_of(class_token=False) == ("attention", "norm", "random")
    for method in ("bsr(keep={3: 0.5})", "full+drop({3: 0.5})"):
        config = Config(WITHOUT, 64, method=method)
        for refused in (predict, build):
            with pytest.raises(
                UserError, match="has none; choose criterion='attention', 'norm' or 'random', or"
            ):
                refused(config)


@every_other
@pytest.mark.parametrize("method", ["bsr", "drop"])
def test_it_drops_by_default_where_it_is_given(criterion: str, method: str) -> None:
    geometry = geometry_of(Config(WITHOUT, 64))
    found = parse_method(f"{method}(criterion={criterion!r})", geometry)
    assert isinstance(found, Bsr | Drop)
    assert found.dropping == {3: 0.5, 7: 0.5, 10: 0.5}  # it has 14 blocks
    none = parse_method(f"{method}(keep={{}}, criterion={criterion!r})", geometry)
    assert isinstance(none, Bsr | Drop)
    assert none.dropping == {}


@every_other
@pytest.mark.parametrize("model", ["deit_t", WITHOUT])
@every_way
def test_what_is_predicted_is_measured(criterion: str, model: str, attention: str, precision: str) -> None:
    batch = 1 + (attention == "fused")
    for fuse in (True, False):
        keep = "{0: 0.5, 4: 0.3, 9: 0.7}"
        method = f"bsr(blocks=(1, 7), keep={keep}, fuse={fuse}, criterion={criterion!r})"
        config = Config(model, 64, 10, batch, attention=attention, precision=precision, method=method)
        difference = predict(config) - measure(config)
        assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.thorough
@every_other
@pytest.mark.parametrize("beside", ["checkpoint", "offload", "mesa", "backrazor", "vpt", "ia3+checkpoint"])
def test_it_goes_with_other_methods(criterion: str, beside: str) -> None:
    method = f"drop({{1: 0.5, 3: 0.7}}, criterion={criterion!r})+{beside}"
    config = Config(WITHOUT, 64, 10, 2, method=method, attention="math" if criterion == "norm" else "fused")
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


def test_criteria_drop_as_many_tokens_and_differ_in_cost() -> None:
    config = Config("deit_t", 64, 10, 2, method=Bsr())
    costs = {each: predict(config.with_method(Bsr(criterion=each))) for each in CRITERIA}
    tokens = {each: tokens_by_block(config.with_method(Bsr(criterion=each))) for each in CRITERIA}
    assert all(each == tokens["class_attention"] for each in tokens.values())
    saved = {each: cost.saved_bytes for each, cost in costs.items()}
    assert saved["norm"] == saved["random"] < saved["attention"] < saved["class_attention"]
    flops = {each: cost.forward_flops for each, cost in costs.items()}
    assert flops["norm"] == flops["random"] < flops["class_attention"] < flops["attention"]


def test_a_block_that_drops_at_random_is_run_in_each_step() -> None:
    config = Config("deit_t", 64, method="bsr(blocks=(11,), keep={4: 0.5}, fuse=False)")
    chance = config.with_method("bsr(blocks=(11,), keep={4: 0.5}, fuse=False, criterion='random')")
    assert sum(stage.frozen for stage in stages_of(config)) == 12
    frozen = [stage.frozen for stage in stages_of(chance)]
    assert frozen[:6] == [True] * 5 + [False]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("more", ["", "+checkpoint"])
@every_other
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(
    criterion: str, more: str, tmp_path: Path
) -> None:
    """What it draws, too."""
    check_it_goes_on(f"last(k=3)+drop({{1: 0.5}}, criterion={criterion!r}){more}", tmp_path, 3, (1, 7))


MakeStudy = Callable[..., Study]


def _spec(**drop: list[object]) -> SpaceSpec:
    axes = {"drop": {"keep": [1.0, 0.5], "fuse": [False], **drop}, "blocks": {"blocks": 1}}
    return SpaceSpec((), families=("blocks+drop",), axes=axes)


def test_a_search_varies_it_only_where_a_study_names_it(make_study: MakeStudy) -> None:
    """5 subsets of 4 blocks; 8 schedules, of which 7 drop."""
    assert len(Space(make_study(space=_spec(), budget="100MB"))) == 5 * 8
    space = Space(make_study(space=_spec(criterion=["class_attention", "random"]), budget="100MB"))
    assert len(space) == 5 * (1 + 2 * 7)
    chance = [space.at(index) for index in range(len(space)) if "random" in str(space.at(index).config.how)]
    assert len(chance) == 5 * 7
    for candidate in chance[:3]:
        assert candidate.train_flops == predict(candidate.config).train_flops


def test_a_study_is_told_which_criteria_there_are(make_study: MakeStudy) -> None:
    with pytest.raises(UserError) as refused:
        Space(make_study(space=_spec(criterion=["norm", "l2"])))
    assert "[space.axes] drop.criterion" in str(refused.value)
    assert "'l2'" in str(refused.value)
    assert all(each in str(refused.value) for each in CRITERIA)


def test_a_model_without_a_class_token_is_searched_by_what_it_can_give(make_study: MakeStudy) -> None:
    config = {"model": WITHOUT, "image_size": 64}
    spec = SpaceSpec((), 1, (4,), (1.0, 0.5), families=("bsr(criterion='attention')",))
    space = Space(make_study(config=config, space=spec, budget="1GB"))
    assert any("'attention'" in str(space.at(index).config.how) for index in range(len(space)))
    with pytest.raises(
        UserError, match="has no class token to drop tokens by; leave it out, or name a family"
    ):
        Space(make_study(config=config, space=SpaceSpec((), 1, (4,), (1.0, 0.5)), budget="1GB"))


def test_the_surrogate_tells_criteria_apart() -> None:
    config = Config("deit_t", 64, method=Bsr())
    profiles = [profile(config.with_method(Bsr(criterion=each)), 1e-3) for each in CRITERIA]
    table = Table(12, profiles)
    assert len({tuple(row) for row in table.rows(profiles)}) == len(CRITERIA)
    assert table.width == Table(12, profiles[:1]).width + len(OTHERS)
