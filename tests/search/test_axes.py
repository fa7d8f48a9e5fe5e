"""Families: expressions whose open arguments vary, and any method or composition of them as a part of a space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.methods import METHODS, BitFit, Bsr
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.base import Geometry
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.search.axes import families
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.space import Space
from bsr_explorer.store.study import FILE, SpaceSpec, Study
from tests.search.spaces import SPEC, parts, spaced

MakeStudy = Callable[..., Study]


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


# --- what a surrogate sees ------------------------------------------------------------------------------


# --- searching ------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", ["exact", "tpe", "random"])
def test_every_family_is_proposed(make_study: MakeStudy, families: Space, sampler: str) -> None:
    from optuna.trial import create_trial

    assert sampler in SAMPLERS
    made: list[Any] = []
    seen: list[Any] = []
    for number in range(14):
        done = {candidate.key for candidate in made}
        proposal = propose(families, sampler, seen, [], done, derived_seed(1, number))
        assert proposal is not None
        made.append(proposal.candidate)
        seen.append(
            create_trial(
                params=families.encode(proposal.candidate),
                distributions=families.distributions,
                values=[0.5 + number % 5 / 10, float(proposal.candidate.counted_bytes)],
                user_attrs={"counted_bytes": proposal.candidate.counted_bytes},
                system_attrs=proposal.system_attrs,
            )
        )
    assert len({candidate.key for candidate in made}) == 14
    assert all(families.fits(candidate) for candidate in made)
    assert {families.encode(candidate)["method"] for candidate in made} >= {"bsr", "bsr+mesa"}


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
