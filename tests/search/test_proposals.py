"""Proposals: in order, within the budget, never twice, and the same for a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from bsr_explorer.search import proposals
from bsr_explorer.search.choices import STRATA
from bsr_explorer.search.exact import START
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.store import study
from bsr_explorer.store.study import SpaceSpec, Study

MakeStudy = Callable[..., Study]

QUICK = [name for name in SAMPLERS if name != "gp"]
"""Those that propose in no time."""


def trial(space: Space, candidate: Candidate, accuracy: float = 0.5, **more: Any) -> FrozenTrial:
    """A finished trial."""
    return create_trial(
        params=space.encode(candidate),
        distributions=space.distributions,
        values=[accuracy, float(candidate.counted_bytes)],
        user_attrs={"key": candidate.key, "counted_bytes": candidate.counted_bytes},
        **more,
    )


def proposed(
    space: Space, sampler: str, count: int, seed: int = 0, pending: Sequence[Candidate] = ()
) -> list[Candidate]:
    """As many proposals as a search would make, each finished before the next."""
    made: list[Candidate] = []
    seen: list[FrozenTrial] = []
    for number in range(count):
        done = {candidate.key for candidate in made}
        proposal = propose(space, sampler, seen, pending, done, derived_seed(seed, number), study_seed=seed)
        if proposal is None:
            break
        made.append(proposal.candidate)
        accuracy = (number * 37 % 10) / 10
        seen.append(trial(space, proposal.candidate, accuracy, system_attrs=proposal.system_attrs))
    return made


def check(space: Space, made: Sequence[Candidate]) -> None:
    assert all(candidate.counted_bytes <= space.study.budget_bytes for candidate in made)
    keys = [candidate.key for candidate in made]
    assert len(set(keys)) == len(keys)


class Stubborn(RandomSampler):
    """Proposes one configuration, whatever is known."""

    def __init__(self, space: Space, params: dict[str, Any]) -> None:
        super().__init__(seed=0)
        self.space, self.params = space, params
        self.asked = 0

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        self.asked += 1
        return self.space.distributions

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self.params


@pytest.fixture(scope="module")
def space(make_study: MakeStudy) -> Space:
    """851 configurations, of which 6 of 8 known ones are within the budget."""
    return Space(make_study())


@pytest.fixture(scope="module")
def bare(make_study: MakeStudy) -> Space:
    """The same without known configurations."""
    made = make_study(budget="1600KB")
    return Space(replace(made, space=replace(made.space, start=())))


@pytest.fixture
def stubborn(space: Space, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Stubborn]:
    """Registers a sampler that proposes these parameters, as ``stubborn``."""

    def register(params: dict[str, Any]) -> Stubborn:
        sampler = Stubborn(space, params)
        monkeypatch.setitem(proposals.SAMPLERS, "stubborn", lambda choices, seed: sampler)
        return sampler

    return register


# --- in order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_configurations_that_fit_come_first_in_their_order(space: Space, sampler: str) -> None:
    made = proposed(space, sampler, 7)
    expected = [str(candidate.config.how) for candidate in space.known if space.fits(candidate)]
    assert [str(candidate.config.how) for candidate in made[:6]] == expected
    assert "full" not in [str(candidate.config.how) for candidate in made]


def test_a_known_configuration_that_is_done_is_passed_over(space: Space) -> None:
    done = {space.known[0].key, space.known[2].key}
    proposal = propose(space, "random", [], [], done, 0)
    assert proposal is not None
    assert proposal.candidate == space.known[1]


def test_what_is_pending_is_not_proposed_again(space: Space) -> None:
    proposal = propose(space, "random", [], space.known[:2], set(), 0)
    assert proposal is not None
    assert proposal.candidate == space.known[2]


def test_the_exact_sampler_begins_with_a_trial_a_stratum_of_memory(bare: Space) -> None:
    assert bare.range_bytes[1] < 1_600_000
    made = proposed(bare, "exact", START)
    edges = np.geomspace(*bare.range_bytes, STRATA + 1)
    tried, _ = np.histogram([candidate.counted_bytes for candidate in made], edges)
    assert list(tried) == [1] * STRATA


# --- what never comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_proposed_fits_and_is_new(bare: Space, sampler: str) -> None:
    made = proposed(bare, sampler, 12)
    assert len(made) == 12
    check(bare, made)
    for candidate in made:
        again = bare.decode(bare.encode(candidate))
        assert (again.key, again.counted_bytes) == (candidate.key, candidate.counted_bytes)


def test_a_sampler_that_insists_on_what_is_over_the_budget_or_done_does_no_harm(
    space: Space, stubborn: Callable[[dict[str, Any]], Stubborn]
) -> None:
    over = next(candidate for candidate in space.known if not space.fits(candidate))
    for candidate in (over, space.known[0]):
        sampler = stubborn(space.encode(candidate))
        done = {known.key for known in space.known}
        proposal = propose(space, "stubborn", [trial(space, space.known[0])], [], done, 0)
        assert sampler.asked == proposals.TRIES
        assert proposal is not None
        assert space.fits(proposal.candidate)
        assert proposal.candidate.key not in done


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", QUICK)
def test_every_batch_size_and_learning_rate_is_proposed(make_study: MakeStudy, sampler: str) -> None:
    made_of = make_study(budget="2MB")
    spec = replace(made_of.space, batch_sizes=(4, 8), lr=(1e-4, 1e-3), start=("linear", "last(k=1)"))
    space = Space(replace(made_of, space=spec))
    made = proposed(space, sampler, 2 + 10)
    assert len(made) == 12
    check(space, made)
    known, others = made[:2], made[2:]
    assert {(c.config.batch_size, c.config.lr) for c in known} == {(4, 1e-4)}
    assert {c.config.batch_size for c in others} == {4, 8}
    assert {c.config.lr for c in others} == {1e-4, 1e-3}


# --- repeatable, and to the end -------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", QUICK)
def test_proposals_follow_from_the_seed(bare: Space, sampler: str) -> None:
    def keys(seed: int) -> list[str]:
        return [candidate.key for candidate in proposed(bare, sampler, START + 2, seed)]

    assert keys(5) == keys(5)
    assert keys(5) != keys(6)


def test_a_sequence_is_that_of_the_study_whatever_a_proposal_is_seeded_with(bare: Space) -> None:
    def key(seen: Sequence[Candidate], seed: int, study_seed: int) -> str:
        trials = [trial(bare, candidate) for candidate in seen]
        proposal = propose(bare, "qmc", trials, [], {c.key for c in seen}, seed, study_seed=study_seed)
        assert proposal is not None
        return proposal.candidate.key

    begun = proposed(bare, "qmc", 5, seed=4)
    assert key(begun, 1, 4) == key(begun, 2, 4) == proposed(bare, "qmc", 6, seed=4)[5].key
    assert len({key(begun, 1, study_seed) for study_seed in range(4)}) > 1


def test_nsga2_breeds_a_second_generation(bare: Space) -> None:
    made = proposed(bare, "nsga2", 1)
    seen = [
        trial(
            bare,
            bare.at(index),
            index / 100,
            system_attrs={"NSGAIISampler:generation": 0, "nsga2:generation": 0},
        )
        for index in range(proposals.POPULATION)
    ]
    proposal = propose(bare, "nsga2", seen, [], {bare.at(i).key for i in range(len(seen))}, 3)
    assert made
    assert proposal is not None
    assert set(proposal.system_attrs.values()) >= {1}


def test_a_trial_that_stopped_counts_with_what_it_had_reached(bare: Space) -> None:
    stopped = create_trial(
        state=TrialState.PRUNED,
        params=bare.encode(bare.at(3)),
        distributions=bare.distributions,
        user_attrs={"history": {"1": 0.25, "2": 0.5}, "counted_bytes": 77},
    )
    complete = proposals._completed(stopped, 2)
    assert complete.state == TrialState.COMPLETE
    assert complete.values == [0.5, 77.0]
    for sampler in QUICK:
        assert propose(bare, sampler, [stopped], [], set(), 0) is not None


@pytest.mark.parametrize("sampler", QUICK)
def test_training_flops_may_be_a_third_objective(bare: Space, sampler: str) -> None:
    made: list[Candidate] = []
    seen: list[FrozenTrial] = []
    for number in range(START + 3):
        done = {candidate.key for candidate in made}
        proposal = propose(bare, sampler, seen, [], done, number, objectives=3)
        assert proposal is not None
        made.append(proposal.candidate)
        values = [number / 10, float(proposal.candidate.counted_bytes), float(proposal.candidate.train_flops)]
        seen.append(
            create_trial(
                params=bare.encode(proposal.candidate), distributions=bare.distributions, values=values
            )
        )
    check(bare, made)


def test_seeds_depend_on_every_part() -> None:
    assert derived_seed(0, "proposal", 3) == 2666542837  # in every process
    assert len({derived_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert 0 <= derived_seed("x") < 2**32


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", QUICK)
def test_a_tiny_space_is_exhausted(make_study: MakeStudy, sampler: str) -> None:
    spec = SpaceSpec(("linear", "full"), max_blocks=1, drop_at=(1,), keep=(1.0, 0.5))
    space = Space(make_study(space=spec))
    made = proposed(space, sampler, 99)
    check(space, made)
    assert len(made) == space.fitting == 16  # 5 subsets × 3 schedules, and linear


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", ["exact", "tpe"])
def test_a_tiny_space_of_several_batch_sizes_is_exhausted(make_study: MakeStudy, sampler: str) -> None:
    spec = SpaceSpec(("linear", "full"), max_blocks=1, drop_at=(), batch_sizes=(4, 2))
    space = Space(make_study(space=spec))
    made = proposed(space, sampler, 99)
    check(space, made)
    assert len(made) == space.fitting
    assert {str(c.config.how) for c in made if c.config.batch_size == 2} >= {"linear"}


def test_a_space_is_exhausted_to_the_last(space: Space) -> None:
    left = space.at(int(np.argsort([space.at(i).counted_bytes for i in range(400)])[200]))
    done = {space.at(index).key for index in range(len(space.grids[0]))} | {c.key for c in space.known}
    done.remove(left.key)
    proposal = propose(space, "tpe", [], [], done, 0)
    assert proposal is not None
    assert proposal.candidate == left


# --- the registry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_one_of_optunas_kind(space: Space, sampler: str) -> None:
    assert isinstance(SAMPLERS[sampler](space, 0), BaseSampler)


def test_a_study_may_name_every_sampler() -> None:
    assert list(SAMPLERS) == list(study.SAMPLERS)


def test_only_so_many_known_ones_come_first(space: Space) -> None:
    fitting = [candidate for candidate in space.known if space.fits(candidate)]
    assert len(fitting) > 2
    first = propose(space, "random", [], [], set(), 1, first=2)
    assert first is not None
    assert first.candidate == fitting[0]
    after = propose(space, "random", [], [], {fitting[0].key, fitting[1].key}, 1, first=2)
    assert after is not None
    assert after.candidate.key not in {fitting[0].key, fitting[1].key}
    all_of_them = propose(space, "random", [], [], {fitting[0].key, fitting[1].key}, 1)
    assert all_of_them is not None
    assert all_of_them.candidate == fitting[2]
