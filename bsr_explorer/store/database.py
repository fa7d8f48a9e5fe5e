"""A study's trials as its database has them: what they say, and a look at them that writes nothing."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bsr_explorer import pareto
from bsr_explorer.errors import UserError
from bsr_explorer.store.records import Record
from bsr_explorer.store.trials import replica

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

DATABASE = "study.db"


def look(folder: Path) -> list[FrozenTrial]:
    """The trials of a study's folder by number; none where there is no database.

    Raises:
        UserError: what is there is no database of a study.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    path = folder.resolve() / DATABASE
    if not path.exists():
        return []
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///file:{path}?mode=ro&uri=true", skip_table_creation=True, skip_compatibility_check=True
        )
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ValueError) as error:
        raise UserError(f"STUDY: {path} is no database of a study ({said(error)})") from None


def told(records: Mapping[int, Record], objectives: int) -> list[FrozenTrial]:
    """The trials that a study's records tell of, where there is no database: each ended as its record says."""
    from optuna.trial import FrozenTrial

    trials = []
    for number, record in sorted(records.items()):
        state, values = outcome(record, objectives)
        trials.append(
            FrozenTrial(
                number=number,
                trial_id=number,
                state=state,
                value=None,
                values=values,
                datetime_start=None,
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={
                    "key": record.key,
                    "replica": replica(record),
                    "proxy": record.study.get("proxy", 0),
                },
                system_attrs={},
                intermediate_values={},
            )
        )
    return trials


def outcome(record: Record, objectives: int) -> tuple[TrialState, list[float] | None]:
    """What a record says of its trial: its state, and its values if it finished."""
    from optuna.trial import TrialState

    if record.status == "finished" and record.score is not None:
        values = [record.score, record.study["counted_bytes"], record.predicted["train_flops"]]
        return TrialState.COMPLETE, [float(value) for value in values[:objectives]]
    return TrialState.PRUNED if record.status in ("stopped", "proxy") else TrialState.FAIL, None


def due(trial: FrozenTrial, recorded: Container[int]) -> bool:
    """Whether a trial was begun and not ended, or asked for, or has lost its record."""
    lost = trial.state.name in ("COMPLETE", "PRUNED") and trial.number not in recorded
    return lost or trial.state.name in ("RUNNING", "WAITING")


def said(error: BaseException) -> str:
    """What the database itself says of an error."""
    while error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    return str(getattr(error, "orig", error))


def replica_of(trial: FrozenTrial) -> int:
    """0 for a trial that the search chose; 1, 2, … for the runs of its configuration on fresh seeds."""
    return int(trial.user_attrs.get("replica", 0))


def proxy_of(trial: FrozenTrial) -> int:
    """0 for a trial at the study's own fidelity; 1, 2, … for one at a proxy of it: see ``Study.proxies``."""
    return int(trial.user_attrs.get("proxy", 0))


def own(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that a study counts: neither on fresh seeds nor at a proxy."""
    return [trial for trial in trials if not replica_of(trial) and not proxy_of(trial)]


def front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Finished trials that no other beats at no cost more, by memory, fresh seeds apart; of equals the first."""
    finished = [trial for trial in trials if trial.state.name == "COMPLETE" and not replica_of(trial)]
    if not finished:
        return []
    finished.sort(key=lambda trial: trial.number)
    scores, *costs = np.array([trial.values for trial in finished]).T
    return [finished[place] for place in pareto.front(*costs, -scores)]


def fresh_seeds(trials: Sequence[FrozenTrial], replicas: int) -> list[tuple[FrozenTrial, int]]:
    """The trials of the front, each with a seed that it has not had; one of each before a second of any."""
    begun = {(trial.user_attrs["key"], replica_of(trial)) for trial in trials}
    return [
        (trial, replica)
        for replica in range(1, replicas + 1)
        for trial in front(trials)
        if (trial.user_attrs["key"], replica) not in begun
    ]
