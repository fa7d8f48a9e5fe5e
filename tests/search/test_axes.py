"""Families: expressions whose open arguments vary, and any method or composition of them as a part of a space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.methods import METHODS, BitFit, Bsr, Method
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.base import Geometry
from bsr_explorer.prediction import counted_bytes, predict
from bsr_explorer.search.axes import families
from bsr_explorer.search.laid import Laid
from bsr_explorer.search.listed import MOST_ONE_BY_ONE
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import FILE, SpaceSpec, Study

MakeStudy = Callable[..., Study]

SPEC = SpaceSpec(
    ("linear", "full"),
    2,
    (1, 2),
    (1.0, 0.5),
    families=("bsr", "bsr+mesa", "last+backrazor(ratio=0.5)", "bitfit"),
    axes={"mesa": {"bits": [8, 4], "faithful": [True]}},
)


@dataclass(frozen=True, eq=False, repr=False)
class Some(BitFit):
    """Biases of some kind train: a method of somebody else's, with an order and a choice of its own."""

    rank: int = 1
    where: str = "attn"

    name: ClassVar[str] = "some"

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks, and two places."""
        return Numbers("rank", (1, 2, 3)), Choices("where", ("attn", "mlp"))

    def trains(self, parameter: str, *about: Any) -> bool:
        """Biases of blocks below the rank, in one place."""
        named = any(f"blocks.{block}.{self.where}" in parameter for block in range(self.rank))
        return (named and parameter.endswith(".bias")) or parameter.startswith("head.")


@pytest.fixture(scope="module")
def space(make_study: MakeStudy) -> Space:
    return Space(make_study(space=SPEC, budget="1600KB"))


def spaced(make_study: MakeStudy, *families: str, **more: Any) -> Space:
    spec = SpaceSpec((), 1, (1,), (1.0, 0.5), families=families, **more)
    return Space(make_study(space=spec, budget="1GB"))


def parts(space: Space, family: int) -> list[Method]:
    members = space.members[family]
    return [members.method(member) for member in range(members.bytes.shape[1])]


# --- what a family holds --------------------------------------------------------------------------------


def test_the_values_of_a_familys_axes_make_its_methods(make_study: MakeStudy) -> None:
    space = spaced(make_study, "last+mesa", axes={"mesa": {"bits": [4, 8]}})
    methods = parts(space, 0)
    assert len(methods) == len(space) == 4 * 2 * 2
    assert {str(parts_of(method)[0]) for method in methods} == {f"last(k={k})" for k in (1, 2, 3, 4)}
    assert {(m.bits, m.faithful) for _, m in map(parts_of, methods)} == {  # type: ignore[attr-defined]
        (bits, faithful) for bits in (4, 8) for faithful in (True, False)
    }


def test_an_argument_that_is_given_does_not_vary(make_study: MakeStudy) -> None:
    space = spaced(make_study, "last(k=2)+mesa(bits=4)", "backrazor(ratio=0.7, faithful=False)")
    assert len(space) == 2 + 1
    assert not [name for name in space.distributions if "k" in name.split(".") or "bits" in name]


def test_costs_of_what_adds_up_over_blocks_are_laid_out(space: Space) -> None:
    assert [type(each).__name__ for each in space.members] == ["Laid", "Laid", "Listed", "Listed"]
    bsr, mesa = space.members[:2]
    assert isinstance(bsr, Laid)
    assert isinstance(mesa, Laid)
    assert bsr.shape == (1, 7, 11)
    assert mesa.shape == (2, 7, 10)  # nothing to store where no block trains
    assert len(space) == 77 + 140 + 4 * 2 + 1 + 2


CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"precision": "amp_bf16", "device": "cuda"},
    {"micro_batches": 2, "attention": "math"},
)

LAID = (
    "bsr+mesa",
    "bsr+backrazor(ratio=0.5)",
    "bsr+mesa(bits=4)+checkpoint",
    "bsr+offload",
    "blocks+drop+checkpoint",
    "bsr(blocks=(1, 3))+backrazor(faithful=False)",
)

COUNTED = ("peak", "saved", "published")


@pytest.mark.parametrize(
    ("family", "config", "counts"),
    [  # each family with each configuration and each way to count
        (family, config, COUNTED[(f + c) % len(COUNTED)])
        for f, family in enumerate(LAID)
        for c, config in enumerate(CONFIGS)
    ],
    ids=str,
)
def test_what_is_laid_out_costs_what_is_predicted(
    make_study: MakeStudy, family: str, config: dict[str, Any], counts: str
) -> None:
    spec = SpaceSpec((), 3, (1, 2), (1.0, 0.5), families=(family,))
    space = Space(make_study(config=config, space=spec, counts=counts))
    assert isinstance(space.members[0], Laid)
    for index in np.random.default_rng(0).choice(len(space), 8):
        candidate = space.at(int(index))
        assert candidate.counted_bytes == counted_bytes(candidate.config, counts)
        assert candidate.train_flops == predict(candidate.config).train_flops


def test_no_configuration_is_of_two_families(make_study: MakeStudy) -> None:
    space = spaced(make_study, "last", "bsr", "blocks(3)+drop+mesa(bits=4)")
    keys = [space.at(index).key for index in range(len(space))]
    assert len(set(keys)) == len(keys)
    assert [each.family.text for each in space.members] == ["bsr", "blocks(3)+drop+mesa(bits=4)", "last"]
    assert {str(method) for method in parts(space, 2)} == {
        "last(k=2)",
        "last(k=3)",
        "last(k=4)",
    }  # 1 is bsr's


def test_what_a_method_refuses_is_no_configuration(make_study: MakeStudy) -> None:
    space = spaced(make_study, "last", axes={"last": {"k": [2, 3, 4, 5, 6]}})
    assert len(space) == 3


def test_a_method_of_somebody_elses_is_a_family(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "some", Some)
    space = spaced(make_study, "some", "some+mesa(bits=8)", axes={"some": {"rank": [1, 3]}})
    assert len(space) == 4 + 4 * 2
    assert {"some.rank", "some.where", "mesa.faithful"} <= space.distributions.keys()
    for index in range(len(space)):
        candidate = space.at(index)
        assert space.decode(space.encode(candidate)) == candidate
        assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")


# --- its parameters -------------------------------------------------------------------------------------


def test_methods_have_parameters_of_their_own_and_bsr_those_of_before(space: Space) -> None:
    names = list(space.distributions)
    assert names[0] == "method"
    assert names[1:8] == [*(f"block_{block:02d}" for block in range(4)), "keep_01", "keep_02", "fuse"]
    assert names[8:] == [
        "mesa.bits",
        "mesa.groups",
        "mesa.faithful",
        "last.k",
        "backrazor.values",
        "backrazor.faithful",
    ]
    families = space.distributions["method"].choices  # type: ignore[attr-defined]
    assert families[:4] == ("bsr", "bsr+mesa", "last+backrazor(ratio=0.5)", "bitfit")
    assert "full" in families


@settings(max_examples=80)
@given(st.data())
def test_all_parameters_are_of_a_configuration(space: Space, draw: st.DataObject) -> None:
    params = {
        name: draw.draw(st.sampled_from(distribution.choices))  # type: ignore[attr-defined]
        for name, distribution in space.distributions.items()
    }
    candidate = space.decode(params)
    assert space.holds(candidate)
    assert candidate.counted_bytes == counted_bytes(candidate.config, "peak")
    assert space.decode(space.encode(candidate)).key == candidate.key


def test_every_configuration_has_its_parameters(space: Space) -> None:
    for index in range(len(space) - len(space.beside)):
        params = space.encode(space.at(index))
        assert params.keys() == space.distributions.keys()
        assert space.decode(params).key == space.at(index).key


# --- what a surrogate sees ------------------------------------------------------------------------------


def test_rows_of_a_pool_are_those_of_its_configurations(space: Space) -> None:
    near = [space.at(index) for index in (3, 120, 218)]
    pool = space.pool(np.random.default_rng(0), 60, near)
    candidates = [pool.at(row) for row in range(len(pool.rows))]
    assert np.allclose(space.rows(candidates), pool.rows)
    assert [(c.counted_bytes, c.train_flops) for c in candidates] == [tuple(c) for c in pool.costs.tolist()]
    assert len({candidate.key for candidate in candidates}) == len(candidates)


def test_bits_are_seen_in_their_order(make_study: MakeStudy) -> None:
    space = spaced(make_study, "bsr(blocks=(3,), keep={}, fuse=False)+mesa(faithful=True)")
    rows = space.rows([space.at(index) for index in range(3)])
    bits = [parts_of(space.at(index).config.how)[1].bits for index in range(3)]  # type: ignore[attr-defined]
    assert sorted(bits) == [2, 4, 8]
    assert rows[:, -1].tolist() == [{2: 0.0, 4: 0.5, 8: 1.0}[each] for each in bits]
    assert (rows[:, :-1] == rows[0, :-1]).all()  # and nothing else tells them apart


# --- searching ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["exact", "tpe", "random"])
def test_every_family_is_proposed(make_study: MakeStudy, space: Space, sampler: str) -> None:
    from optuna.trial import create_trial

    assert sampler in SAMPLERS
    made: list[Any] = []
    seen: list[Any] = []
    for number in range(14):
        done = {candidate.key for candidate in made}
        proposal = propose(space, sampler, seen, [], done, derived_seed(1, number))
        assert proposal is not None
        made.append(proposal.candidate)
        seen.append(
            create_trial(
                params=space.encode(proposal.candidate),
                distributions=space.distributions,
                values=[0.5 + number % 5 / 10, float(proposal.candidate.counted_bytes)],
                user_attrs={"counted_bytes": proposal.candidate.counted_bytes},
                system_attrs=proposal.system_attrs,
            )
        )
    assert len({candidate.key for candidate in made}) == 14
    assert all(space.fits(candidate) for candidate in made)
    assert {space.encode(candidate)["method"] for candidate in made} >= {"bsr", "bsr+mesa"}


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"families": ("bsr", " bsr ")}, "[space] families: 'bsr' stands twice"),
        ({"families": ("bsr", "bsr(fuse=True)")}, "hold the same configurations; keep one"),
        ({"axes": {"mesa": {"bits": [8]}}}, "[space.axes] (a method of the families): unknown value 'mesa'"),
        ({"axes": {"bsr": {"fuse": [True]}}}, "its axes are the keys max_blocks, drop_at, keep and fuse"),
        (
            {"families": ("mesa",), "axes": {"mesa": {"bit": [8]}}},
            "[space.axes] mesa: unknown value 'bit' (did you mean 'bits'?)",
        ),
        (
            {"families": ("mesa",), "axes": {"mesa": {"bits": ["8"]}}},
            "[space.axes] mesa.bits: '8' is no number",
        ),
        ({"families": ("mesa",), "axes": {"mesa": {"bits": [3]}}}, "mesa(bits=3): bits must be 8, 4 or 2"),
        ({"families": ("linear+mesa",)}, "has nothing to store"),
        ({"families": ("last(k=9)",)}, "the model has 4 blocks"),
        ({"families": ("bsr", "last(k=1)")}, "'last(k=1)' holds nothing that the other families do not"),
    ],
)
def test_a_family_that_cannot_be_is_refused(make_study: MakeStudy, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        Space(make_study(space=replace(SpaceSpec((), 2, (1,)), **spec)))
    assert words in str(error.value)


def test_too_many_to_be_predicted_one_by_one_are_refused_with_what_to_do(make_study: MakeStudy) -> None:
    spec = SpaceSpec((), 12, (3, 6, 9), families=("bsr(faithful=False)",))
    study = make_study(config={"model": "deit_t", "image_size": 64}, space=spec)
    with pytest.raises(UserError) as error:
        Space(study)
    assert f"has 221,184 configurations, more than the {MOST_ONE_BY_ONE:,} that are predicted" in str(
        error.value
    )
    assert "give fewer values to its axes" in str(error.value)


# --- the file -------------------------------------------------------------------------------------------


def test_families_and_axes_stand_in_the_file(make_study: MakeStudy, tmp_path: Any) -> None:
    study = make_study(space=SPEC)
    study.write(tmp_path, "a command")
    read = Study.from_toml(tmp_path / FILE)
    assert read.space.families == SPEC.families
    assert len(Space(read)) == len(Space(study))
    assert read.differences(study) == []
    assert study.differences(replace(study, space=replace(SPEC, axes={"mesa": {"bits": [8]}})))


def test_what_a_file_leaves_open_is_as_the_methods_have_it(make_study: MakeStudy) -> None:
    space = Space(make_study(space=SpaceSpec()))
    assert len(space) == len(Space(make_study())) - len(Space(make_study()).beside)
    assert families(SpaceSpec(), space.geometry)[0].parts[0].method is Bsr
