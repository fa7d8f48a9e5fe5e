"""A study's database, opened: see also ``test_book``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution
from sqlalchemy.exc import OperationalError

from bsr_explorer.errors import UserError
from bsr_explorer.search.opening import check_space, open_database, writing
from bsr_explorer.store.study import Study

MakeStudy = Callable[..., Study]
SPACE = {"method": CategoricalDistribution(["bsr", "full"])}


def test_what_is_no_database_is_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, whatever its name says")
    with pytest.raises(UserError, match=r"study\.db cannot be used as a database"):
        open_database(make_study(), tmp_path)


def test_a_database_of_another_name_is_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    open_database(make_study(), tmp_path)
    with pytest.raises(UserError, match="holds the study 'toy-study'; give --study 'toy-study'"):
        open_database(make_study(name="other"), tmp_path)


def test_a_database_of_another_study_or_space_is_refused_with_the_differences(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    database = open_database(study, tmp_path)
    check_space(database, study, tmp_path, SPACE)
    check_space(open_database(study, tmp_path), study, tmp_path, SPACE)
    with pytest.raises(UserError, match=r"another space \(study.seed: 0 → 1\)"):
        check_space(database, replace(study, seed=1), tmp_path, SPACE)
    database.add_trial(database.ask(SPACE)._cached_frozen_trial)
    other = {"method": CategoricalDistribution(["bsr"])}
    with pytest.raises(UserError, match=r"parameter method: .*full.* → .*bsr"):
        check_space(database, study, tmp_path, other)


def test_what_cannot_be_written_is_an_error_as_of_any_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"study\.db") as error, writing(tmp_path):
        raise OperationalError("INSERT", {}, Exception("disk full"))
    assert error.value.strerror == "disk full"
