"""The database of a study, opened: made where there is none, refused where it is of another study or space."""

from __future__ import annotations

import errno
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import quality_of
from bsr_explorer.store.database import DATABASE, said
from bsr_explorer.store.reopened import refuse
from bsr_explorer.store.study import Study

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
"""Of ``study.OBJECTIVES``."""


def open_database(study: Study, folder: Path) -> optuna.Study:
    """The Optuna study in a study's folder, which exists.

    Raises:
        UserError: what is there is no database, or of another study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / DATABASE
    try:
        # Others may read the database meanwhile, for which it waits.
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        names = optuna.get_all_study_names(storage)
        if names and study.name not in names:
            raise UserError(
                f"--out: {path} holds the study {names[0]!r}; give --study {names[0]!r}, or another --out"
            )
        return optuna.create_study(
            storage=storage,
            study_name=study.name,
            directions=DIRECTIONS[: len(study.objectives)],
            load_if_exists=True,
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        raise UserError(
            f"--out: {path} cannot be used as a database ({said(error)}); give another --out"
        ) from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A database that cannot be written is an error as of any file, with what the database says."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise OSError(errno.EIO, said(error), str(folder / DATABASE)) from None


def check_space(
    database: optuna.Study, study: Study, folder: Path, distributions: Mapping[str, BaseDistribution]
) -> None:
    """Refuse a database of another study, or of a space that is laid out otherwise; else note what it is of.

    The hash tells equal spaces at a glance; what stands beside it tells the difference.

    Raises:
        UserError: with the differences.
    """
    parameters = {name: distribution_to_json(d) for name, d in distributions.items()}
    whole = json.dumps([study.settings(), parameters], sort_keys=True)
    mine = hashlib.sha256(whole.encode()).hexdigest()[:16]
    theirs = database.user_attrs
    if theirs.get("space_hash") == mine:
        return
    differences = []
    if "study" in theirs:
        stored = Study.from_tables(theirs["study"], folder / DATABASE)
        differences = stored.differences(study)
    for trial in database.get_trials(deepcopy=False)[:1]:
        before = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
        differences += [
            f"parameter {name}: {before.get(name, 'unset')} → {parameters.get(name, 'unset')}"
            for name in dict.fromkeys([*before, *parameters])
            if before.get(name) != parameters.get(name)
        ]
    if len(database.directions) != len(study.objectives) and not differences:
        differences = [f"objectives: {len(database.directions)} → {len(study.objectives)}"]
    refuse(folder, differences)
    names = [
        "validation " + quality_of(study.config.model).name,
        f"{study.counts} bytes",
        "FLOPs of a training step",
    ]
    with warnings.catch_warnings():  # optuna calls naming the objectives experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        database.set_metric_names(names[: len(study.objectives)])
    database.set_user_attr("study", study.to_toml())
    database.set_user_attr("space_hash", mine)
