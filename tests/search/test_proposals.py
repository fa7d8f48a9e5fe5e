"""Proposals: in order, within the budget, never twice, and the same for a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import FrozenTrial, create_trial

from bsr_explorer.methods import Bsr
from bsr_explorer.search import proposals
from bsr_explorer.search.proposals import SAMPLER_FROM, STRATA, Sampler, TpeSampler, derived_seed, propose
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.store.study import SpaceSpec, Study

MakeStudy = Callable[..., Study]

SAMPLERS = [
    made
    for made in vars(proposals).values()
    if inspect.isclass(made) and made is not Sampler and hasattr(made, "propose")
]


def trial(space: Space, candidate: Candidate, accuracy: float = 0.5) -> FrozenTrial:
    """A finished trial."""
    return create_trial(
        params=space.encode(candidate),
        distributions=space.distributions,
        values=[accuracy, float(candidate.counted_bytes)],
        user_attrs={"key": candidate.key},
    )


def proposed(space: Space, sampler: Sampler, count: int, seed: int = 0) -> list[Candidate]:
    """As many proposals as a search would make, each finished before the next."""
    made: list[Candidate] = []
    for number in range(count):
        finished = [trial(space, c, accuracy=(i * 37 % 10) / 10) for i, c in enumerate(made)]
        done = {candidate.key for candidate in made}
        candidate = propose(space, sampler, finished, done, derived_seed(seed, number))
        if candidate is None:
            break
        made.append(candidate)
    return made


def check(space: Space, made: Sequence[Candidate]) -> None:
    assert all(candidate.counted_bytes <= space.study.budget_bytes for candidate in made)
    keys = [candidate.key for candidate in made]
    assert len(set(keys)) == len(keys)


class Bad:
    """Always proposes what must not be trained: what is done, what is over the budget, or nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def propose(self, space: Space, finished: Sequence[FrozenTrial], seed: int) -> Candidate | None:
        self.asked += 1
        over = next(candidate for candidate in space.known if not space.fits(candidate))
        return (None, over, space.decode(finished[0].params))[self.asked % 3]


class Stubborn:
    """Proposes one configuration, whatever is known."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate

    def propose(self, space: Space, finished: Sequence[FrozenTrial], seed: int) -> Candidate:
        return self.candidate


@pytest.fixture(scope="module")
def space(make_study: MakeStudy) -> Space:
    """851 configurations, of which 6 of 8 known ones are within the budget."""
    return Space(make_study())


# --- in order -------------------------------------------------------------------------------------------


def test_known_configurations_that_fit_come_first_in_their_order(space: Space) -> None:
    made = proposed(space, Bad(), 8)
    expected = [str(candidate.config.how) for candidate in space.known if space.fits(candidate)]
    assert [str(candidate.config.how) for candidate in made[:6]] == expected
    assert "full" not in [str(candidate.config.how) for candidate in made]


def test_a_known_configuration_that_is_done_is_passed_over(space: Space) -> None:
    done = {space.known[0].key, space.known[2].key}
    assert propose(space, Bad(), [], done, 0) == space.known[1]


def test_strata_of_memory_are_tried_equally(make_study: MakeStudy) -> None:
    study = make_study(budget="1600KB")
    space = Space(replace(study, space=replace(study.space, start=())))
    assert space.range_bytes[1] < 1_600_000
    made = proposed(space, Bad(), 2 * STRATA)
    edges = np.geomspace(*space.range_bytes, STRATA + 1)
    tried, _ = np.histogram([candidate.counted_bytes for candidate in made], edges)
    assert list(tried) == [2] * STRATA


def test_a_sampler_is_asked_when_it_has_something_to_learn_from(space: Space) -> None:
    sampler = Bad()
    made = proposed(space, sampler, SAMPLER_FROM)
    assert len(made) == SAMPLER_FROM
    assert sampler.asked == 0
    wanted = space.sample(np.random.default_rng(9), 0, 1e9)
    assert wanted is not None
    finished, done = [trial(space, c) for c in made], {c.key for c in made}
    assert propose(space, Stubborn(wanted), finished, done - {wanted.key}, 0) == wanted


# --- what never comes out -------------------------------------------------------------------------------


def test_a_bad_sampler_does_no_harm(space: Space) -> None:
    sampler = Bad()
    made = proposed(space, sampler, SAMPLER_FROM + 6)
    assert len(made) == SAMPLER_FROM + 6
    assert sampler.asked >= 6  # it was asked, and proposed only what must not be taken
    check(space, made)


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_sampler_proposes_what_fits_and_is_new(space: Space, make: type[Sampler]) -> None:
    made = proposed(space, make(), SAMPLER_FROM + 3)
    assert len(made) == SAMPLER_FROM + 3
    check(space, made)


@pytest.mark.parametrize("make", SAMPLERS)
def test_every_batch_size_is_proposed(make_study: MakeStudy, make: type[Sampler]) -> None:
    study = make_study(budget="2MB")
    space = Space(replace(study, space=replace(study.space, batch_sizes=(4, 8))))
    made = proposed(space, make(), SAMPLER_FROM + 4)
    assert len(made) == SAMPLER_FROM + 4
    check(space, made)
    known, others = made[:6], made[6:]
    assert {candidate.config.batch_size for candidate in known} == {4}
    assert {candidate.config.batch_size for candidate in others} == {4, 8}


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_sampler_makes_candidates_of_the_space(space: Space, make: type[Sampler]) -> None:
    made = proposed(space, Bad(), SAMPLER_FROM)
    finished = [trial(space, candidate, accuracy=i / 20) for i, candidate in enumerate(made)]
    for seed in range(3):
        candidate = make().propose(space, finished, seed)
        assert candidate is not None
        again = space.decode(space.encode(candidate))
        assert (again.key, again.counted_bytes) == (candidate.key, candidate.counted_bytes)


@pytest.mark.parametrize("make", SAMPLERS)
def test_a_sampler_has_something_to_say(space: Space, make: type[Sampler]) -> None:
    """Of 5 proposals, one at least is within the budget and new."""
    made = proposed(space, Bad(), SAMPLER_FROM)
    finished = [trial(space, candidate, accuracy=i / 20) for i, candidate in enumerate(made)]
    proposals = [make().propose(space, finished, seed) for seed in range(5)]
    new = {c.key for c in proposals if c is not None and space.fits(c)} - {c.key for c in made}
    assert new


def test_a_sampler_cannot_leave_the_space(make_study: MakeStudy) -> None:
    spec = SpaceSpec(("linear",), max_blocks=1, drop_at=(1,), keep=(1.0, 0.5))
    space, wide = (Space(make_study(space=replace(spec, max_blocks=most))) for most in (1, 2))
    outside = wide.at(len(wide.grid) - 1)
    assert blocks(outside) == 2
    finished = [trial(space, space.at(0))] * SAMPLER_FROM
    candidate = propose(space, Stubborn(outside), finished, {space.known[0].key}, 0)
    assert candidate is None or blocks(candidate) <= 1


def blocks(candidate: Candidate) -> int:
    """How many blocks train."""
    assert isinstance(candidate.config.how, Bsr)
    return len(candidate.config.how.blocks)


# --- repeatable, and to the end -------------------------------------------------------------------------


@pytest.mark.parametrize("make", SAMPLERS)
def test_proposals_follow_from_the_seed(space: Space, make: type[Sampler]) -> None:
    def keys(seed: int) -> list[str]:
        return [candidate.key for candidate in proposed(space, make(), SAMPLER_FROM + 1, seed)]

    one, again, other = keys(5), keys(5), keys(6)
    assert one == again
    assert one[:6] == other[:6]  # known ones
    assert one[6:] != other[6:]


def test_seeds_depend_on_every_part() -> None:
    assert derived_seed(0, "proposal", 3) == 2666542837  # in every process
    assert len({derived_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert 0 <= derived_seed("x") < 2**32


@pytest.mark.parametrize("make", [Bad, *SAMPLERS])
def test_a_tiny_space_is_exhausted(make_study: MakeStudy, make: type[Sampler]) -> None:
    spec = SpaceSpec(("linear", "full"), max_blocks=1, drop_at=(1,), keep=(1.0, 0.5))
    space = Space(make_study(space=spec))
    made = proposed(space, make(), 99)
    check(space, made)
    assert len(made) == space.fitting == 16  # 5 subsets × 3 schedules, and linear


@pytest.mark.parametrize("make", [Bad, *SAMPLERS])
def test_a_tiny_space_of_several_batch_sizes_is_exhausted(make_study: MakeStudy, make: type[Sampler]) -> None:
    spec = SpaceSpec(("linear", "full"), max_blocks=1, drop_at=(), batch_sizes=(4, 2))
    space = Space(make_study(space=spec))
    made = proposed(space, make(), 99)
    check(space, made)
    assert len(made) == space.fitting
    assert {str(c.config.how) for c in made if c.config.batch_size == 2} >= {"linear"}


def test_a_space_is_exhausted_to_the_last(space: Space) -> None:
    left = space.at(int(np.argsort([space.at(i).counted_bytes for i in range(400)])[200]))
    done = {space.at(index).key for index in range(len(space.grid))} | {c.key for c in space.known}
    done.remove(left.key)
    assert propose(space, TpeSampler(), [], done, 0) == left
