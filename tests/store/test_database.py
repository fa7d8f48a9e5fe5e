"""A study's trials as its database has them: the front of the search, and the seeds that it lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from bsr_explorer.errors import UserError
from bsr_explorer.store.database import DATABASE, fresh_seeds, front, look, outcome, replica_of, told
from bsr_explorer.store.records import read_records


def trial(number: int, accuracy: float, *costs: int, **attrs: Any) -> FrozenTrial:
    made = create_trial(values=[accuracy, *map(float, costs)], user_attrs={"key": f"k{number}", **attrs})
    made.number = number
    return made


def test_a_look_shows_what_was_told_and_writes_nothing(finished_once: Path) -> None:
    before = (finished_once / DATABASE).read_bytes()
    trials = look(finished_once)
    assert [t.number for t in trials] == list(range(7))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert all(t.user_attrs["key"] for t in trials)
    assert (finished_once / DATABASE).read_bytes() == before


def test_no_database_has_no_trials(tmp_path: Path) -> None:
    assert look(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_records_tell_what_a_database_would(finished_once: Path) -> None:
    def known(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
        return [(t.number, t.state, t.values, t.user_attrs["key"], replica_of(t)) for t in trials]

    assert known(told(read_records(finished_once), 2)) == known(look(finished_once))


def test_what_did_not_finish_is_told_too(finished_once: Path) -> None:
    (record, *_) = read_records(finished_once).values()
    others = {"stopped": TrialState.PRUNED, "failed": TrialState.FAIL, "diverged": TrialState.FAIL}
    for status, state in others.items():
        assert outcome(replace(record, status=status), 3) == (state, None)  # type: ignore[arg-type]
    values = [record.accuracy, record.study["counted_bytes"], record.predicted["train_flops"]]
    assert outcome(record, 3) == (TrialState.COMPLETE, values)


@pytest.mark.parametrize("content", [b"", b"no database " * 100])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(UserError, match=r"study\.db is no database of a study"):
        look(tmp_path)


ROWS = st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 3), st.booleans())


@given(st.lists(ROWS, max_size=12), st.sampled_from([2, 3]))
def test_nothing_beats_the_front(rows: list[tuple[int, int, int, bool]], objectives: int) -> None:
    trials = [
        trial(n, accuracy / 5, *(size, flops)[: objectives - 1], replica=int(fresh))
        for n, (accuracy, size, flops, fresh) in enumerate(rows)
    ]
    own = [t for t in trials if not replica_of(t)]
    ahead = front(trials)

    def beats(one: FrozenTrial, other: FrozenTrial) -> bool:
        better = one.values[0] >= other.values[0]
        better &= all(mine <= theirs for mine, theirs in zip(one.values[1:], other.values[1:], strict=True))
        return better and (one.values != other.values or one.number < other.number)

    unbeaten = {t.number for t in own if not any(beats(o, t) for o in own)}
    assert {t.number for t in ahead} == unbeaten
    assert [t.values[1] for t in ahead] == sorted(t.values[1] for t in ahead)


def test_only_what_finished_is_on_the_front() -> None:
    stopped = create_trial(state=TrialState.PRUNED, user_attrs={"key": "a"})
    assert front([stopped, trial(1, 0.5, 10)])[0].number == 1


def test_each_of_the_front_has_one_seed_before_any_has_a_second() -> None:
    trials = [trial(0, 0.5, 10), trial(1, 0.4, 20), trial(2, 0.9, 30)]
    assert [(t.number, replica) for t, replica in fresh_seeds(trials, 2)] == [(0, 1), (2, 1), (0, 2), (2, 2)]
    begun = create_trial(state=TrialState.FAIL, user_attrs={"key": "k0", "replica": 1})
    assert [(t.number, replica) for t, replica in fresh_seeds([*trials, begun], 1)] == [(2, 1)]
    assert fresh_seeds(trials, 0) == []
