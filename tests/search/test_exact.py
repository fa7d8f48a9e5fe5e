"""The exact-cost sampler: an ordinary sampler of Optuna that knows what is free."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from bsr_explorer.pareto import hypervolume
from bsr_explorer.search.choices import placed
from bsr_explorer.search.exact import PAIRS, START, ExactCostSampler, _outcomes
from bsr_explorer.search.proposals import SAMPLERS, derived_seed, propose
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.store.study import Study

MakeStudy = Callable[..., Study]

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def space(make_study: MakeStudy) -> Space:
    """851 configurations; everything fits but a few."""
    study = make_study(budget="1550KB")
    return Space(Study(**{**vars(study), "space": type(study.space)(start=(), max_blocks=4, drop_at=(1, 2))}))


def accuracy(space: Space, candidate: Candidate) -> float:
    """Grows with what trains, most in block 2, and falls with the tokens."""
    row = space.rows([candidate])[0]
    return float(0.4 + 0.3 * (1 - np.exp(-(row[:4] @ [0.4, 0.5, 1.6, 0.5]))) + 0.05 * row[7])


def test_an_ordinary_study_can_use_it(space: Space) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ExactCostSampler(space, seed=1))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {
            name: trial.suggest_categorical(name, d.choices)  # type: ignore[attr-defined]
            for name, d in space.distributions.items()
        }
        candidate = space.decode(params)
        return accuracy(space, candidate), float(candidate.counted_bytes)

    study.optimize(objective, n_trials=START + 4)
    candidates = [space.decode(trial.params) for trial in study.trials]
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert all(space.fits(candidate) for candidate in candidates)
    assert len({candidate.key for candidate in candidates}) == START + 4


def searched(space: Space, sampler: str, seed: int, trainings: int) -> float:
    """Share of the whole hypervolume after so many trainings."""
    seen: list[FrozenTrial] = []
    made: list[Candidate] = []
    for number in range(trainings):
        done = {candidate.key for candidate in made}
        proposal = propose(space, sampler, seen, [], done, derived_seed(seed, number))
        assert proposal is not None
        made.append(proposal.candidate)
        value = accuracy(space, proposal.candidate)
        seen.append(
            create_trial(
                params=space.encode(proposal.candidate),
                distributions=space.distributions,
                values=[value, float(proposal.candidate.counted_bytes)],
            )
        )
    whole = [space.at(int(index)) for index in space._fitting]
    return volume(space, made) / volume(space, whole)


def volume(space: Space, candidates: list[Candidate]) -> float:
    reached = [accuracy(space, candidate) for candidate in candidates]
    return hypervolume([c.counted_bytes for c in candidates], reached, space.budget_bytes)


@pytest.mark.thorough
def test_it_finds_more_than_chance(space: Space) -> None:
    ours = [searched(space, "exact", seed, 12) for seed in range(2)]
    chance = [searched(space, "random", seed, 12) for seed in range(6)]
    assert np.mean(ours) > np.mean(chance)
    assert min(ours) > 0.95


@pytest.mark.thorough
@pytest.mark.parametrize("costs", [1, 2])
def test_running_trials_are_expected_and_not_proposed_again(space: Space, costs: int) -> None:
    trials = [
        create_trial(
            params=space.encode(space.at(index)),
            distributions=space.distributions,
            values=[accuracy(space, space.at(index)), float(space.at(index).counted_bytes)],
        )
        for index in range(0, 250, 25)
    ]
    made: list[Candidate] = []
    for _ in range(4):
        candidate = ExactCostSampler(space, seed=3).propose(trials, costs)
        assert candidate is not None
        made.append(candidate)
        running: dict[str, Any] = {"params": space.encode(candidate), "distributions": space.distributions}
        trials.append(create_trial(state=TrialState.RUNNING, **running))
    assert len({candidate.key for candidate in made}) == 4
    assert all(space.fits(candidate) for candidate in made)


def test_what_stopped_says_how_far_it_would_have_come(space: Space) -> None:
    def ended(state: TrialState, history: dict[str, float]) -> FrozenTrial:
        values = [max(history.items())[1], 1.0] if state == TrialState.COMPLETE else None
        return create_trial(
            state=state,
            params=space.encode(space.at(0)),
            distributions=space.distributions,
            values=values,
            user_attrs={"history": history},
        )

    finished = [
        ended(TrialState.COMPLETE, {"1": 0.4 + n / 100, "3": 0.6 + n / 100 + n / 1000}) for n in range(PAIRS)
    ]
    stopped = ended(TrialState.PRUNED, {"1": 0.3})
    numbers, reached, doubt = _outcomes([*finished, stopped])
    assert numbers == [0, 1, 2, 3]
    assert reached[3] == pytest.approx(0.3 + 0.201)
    assert doubt[3] > 0
    assert list(doubt[:3]) == [0, 0, 0]
    assert _outcomes([finished[0], stopped])[0] == [0]  # too few to know


def test_it_is_the_default() -> None:
    assert next(iter(SAMPLERS)) == "exact"


# --- several fidelities ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(space: Space) -> Space:
    """The space with a proxy that takes a tenth of the time."""
    other = copy(space)
    other.efforts = np.array([1.0, 0.1])
    return other


def ended(space: Space, candidate: Candidate) -> FrozenTrial:
    """A trial of it, as a search tells it."""
    value = accuracy(space, candidate) - 0.2 * bool(candidate.proxy)
    return create_trial(
        state=TrialState.PRUNED if candidate.proxy else TrialState.COMPLETE,
        params=space.encode(candidate),
        distributions=space.distributions,
        values=None if candidate.proxy else [value, float(candidate.counted_bytes)],
        user_attrs={"proxy": candidate.proxy, "history": {"1": value}},
    )


def together(space: Space, trainings: int) -> list[Candidate]:
    """What is proposed one after the other."""
    trials: list[FrozenTrial] = []
    made: list[Candidate] = []
    for number in range(trainings):
        candidate = ExactCostSampler(space, seed=number).propose(trials)
        assert candidate is not None
        made.append(candidate)
        trials.append(ended(space, candidate))
    return made


def test_it_begins_at_the_cheapest(several: Space) -> None:
    three = copy(several)
    three.efforts = np.array([1.0, 0.4, 0.1])
    made = together(three, START)
    assert [c.proxy for c in made] == [2] * START
    assert len({c.key for c in made}) == START


def test_at_the_close_the_front_that_is_expected_is_trained_at_the_target(several: Space) -> None:
    """One after another, until all of that front has been trained at the target."""
    trials = [ended(several, candidate) for candidate in together(several, START)]
    sampler = ExactCostSampler(several, seed=1)
    promoted: list[Candidate] = []
    while True:
        front = {c.key for c in sampler.expected_front(trials)}
        waiting = front - {c.key for c in promoted}
        candidate = sampler.propose(trials, closing=True)
        assert candidate is not None
        if not waiting:
            break
        assert not candidate.proxy
        assert candidate.key in waiting
        promoted.append(candidate)
        trials.append(ended(several, candidate))
    assert promoted


def test_the_front_that_is_expected_is_of_what_was_trained(several: Space) -> None:
    trials = [ended(several, candidate) for candidate in together(several, START)]
    keys = {several.decode(trial.params).key for trial in trials}
    front = ExactCostSampler(several).expected_front(trials)
    assert {c.key for c in front} <= keys
    sizes = [c.counted_bytes for c in front]
    assert sizes == sorted(set(sizes))
    assert len(ExactCostSampler(several).expected_front(trials[:1])) == 1


@pytest.fixture(scope="module")
def proposed(several: Space) -> list[Candidate]:
    """What is proposed for 30 trainings, one after another."""
    return together(several, 30)


@pytest.mark.thorough
@pytest.mark.long
def test_it_trains_nothing_twice_and_not_at_proxies_alone(several: Space, proposed: list[Candidate]) -> None:
    assert len({c.place for c in proposed}) == len(proposed)
    assert all(several.fits(c) for c in proposed)
    finished: set[str] = set()
    for candidate in proposed:
        assert candidate.key not in finished
        finished |= set() if candidate.proxy else {candidate.key}
    at_proxy = sum(c.proxy for c in proposed)
    assert 10 < at_proxy <= 3 * max(START, len(proposed) - at_proxy)


@pytest.mark.thorough
@pytest.mark.long
def test_its_front_is_worth_more_for_the_same_time(several: Space, proposed: list[Candidate]) -> None:
    seconds = np.cumsum([several.efforts[c.proxy] for c in proposed])
    trials = [ended(several, c) for c, spent in zip(proposed, seconds, strict=True) if spent <= 10]
    own = ExactCostSampler(several).expected_front(trials)
    whole = volume(several, [several.at(int(index)) for index in several._fitting])
    chance = np.random.default_rng(0)
    few = [[several.at(int(i)) for i in chance.choice(several._fitting, 10, replace=False)] for _ in range(6)]
    assert volume(several, own) > np.mean([volume(several, each) for each in few])
    assert volume(several, own) / whole > 0.95


def test_what_has_failed_is_not_proposed_again(several: Space) -> None:
    made = together(several, START + 1)
    failed = frozenset({made[-1].place})
    trials = [ended(several, candidate) for candidate in made[:START]]
    again = ExactCostSampler(several, seed=5).propose(trials, done=failed)
    assert again is not None
    assert again.place not in failed


def test_a_study_asks_it_where_to_train(several: Space) -> None:
    trials = [ended(several, candidate) for candidate in together(several, PAIRS)]
    done = {placed(several.decode(trial.params).key, 1) for trial in trials}
    proposal = propose(several, "exact", trials, [], done, 1)
    assert proposal is not None
    assert proposal.candidate.proxy == 1
    pending = propose(several, "exact", trials, [proposal.candidate], done, 1)
    assert pending is not None
    assert pending.candidate.place != proposal.candidate.place
