"""The file of one configuration: there and back, out of a record, and within a study."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.store.records import Record
from bsr_explorer.store.study import SpaceSpec, Study

CONFIG = Config("deit_t", 48, batch_size=8, method="last(k=2)", optimizer="sgd_momentum", lr=0.01)
WHOLE = Experiment(
    "one", CONFIG, "pets", "random", Fidelity(32, 20, 10, 2, "paper-deit-s", views=3), seed=2**31 + 5
)


def write(tables: dict[str, Any], path: Path) -> Path:
    path.write_text(tomli_w.dumps(tables))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        Experiment.from_toml(path)
    return str(error.value)


@pytest.mark.parametrize("experiment", [WHOLE, Experiment("one", Config(method="linear"))])
def test_a_file_is_read_as_it_was_written(experiment: Experiment, tmp_path: Path) -> None:
    assert Experiment.from_toml(write(experiment.to_toml(), tmp_path / "x.toml")) == experiment


def test_a_file_without_tables_is_a_configuration(tmp_path: Path) -> None:
    path = write(CONFIG.to_dict(), tmp_path / "mine.toml")
    assert Experiment.from_toml(path) == Experiment("mine", CONFIG)


def test_a_study_file_is_one_that_lacks_a_method(tmp_path: Path) -> None:
    tables = WHOLE.to_toml()
    del tables["config"]["method"]
    assert "[config] has no method; add one" in refused(write(tables, tmp_path / "study.toml"))
    assert "[config] has no method" in refused(write({}, tmp_path / "empty.toml"))


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("config", "modle", "deit_s", "key of [config]: unknown value 'modle' (did you mean 'model'?)"),
        ("config", "lr", -1.0, "--lr: -1.0 must be a positive, finite number"),
        ("config", "lr", "fast", "[config] lr must be a number, and is 'fast'"),
        ("config", "method", "lsat(k=1)", "--method: unknown value 'lsat'"),
        ("fidelity", "epochs", 0, "--epochs: 0 must be a whole number of at least 1"),
        ("study", "seed", "one", "[study] seed must be a whole number"),
    ],
)
def test_what_cannot_be_is_named(table: str, key: str, value: Any, words: str, tmp_path: Path) -> None:
    tables = WHOLE.to_toml()
    tables[table][key] = value
    assert words in refused(write(tables, tmp_path / "x.toml"))


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "finished",
        "config": CONFIG.to_dict(),
        "key": "k",
        "fidelity": asdict(WHOLE.fidelity),
        "data": "pets",
        "seed": WHOLE.seed,
    }
    return Record(**{**values, **changes})


def test_a_record_is_of_an_experiment() -> None:
    assert Experiment.of_record("one", record(), "random") == WHOLE
    old = {key: value for key, value in asdict(WHOLE.fidelity).items() if key != "views"}
    made = Experiment.of_record("one", record(fidelity=old), "random")
    assert made.fidelity == replace(WHOLE.fidelity, views=None)


def test_a_record_of_a_later_version_is_refused() -> None:
    with pytest.raises(UserError, match="TRIAL: its record is of a later version"):
        Experiment.of_record("one", record(fidelity={"mixup": 0.5}), "random")
    with pytest.raises(UserError, match="configuration key: unknown value 'rank'"):
        Experiment.of_record("one", record(config={**CONFIG.to_dict(), "rank": 3}), "random")


def test_a_study_with_an_experiment_tries_it_first(tmp_path: Path) -> None:
    space = SpaceSpec(("linear", "last(k=2)"), 2, (3, 6), batch_sizes=(4, 8), lr=(0.1, 0.01))
    study = Study("many", Config("deit_t"), "60MB", "saved", "digits", "hub", Fidelity(), space, trials=5)
    path = write(WHOLE.within(study), tmp_path / "x.toml")
    made = Study.from_toml(path)
    assert made.space == replace(space, start=("last(k=2)", "linear"), batch_sizes=(8, 4), lr=(0.01, 0.1))
    assert (made.name, made.seed, made.trials, made.budget) == ("one", WHOLE.seed, 5, "60MB")
    assert (made.data, made.weights, made.fidelity) == (WHOLE.data, WHOLE.weights, WHOLE.fidelity)
    assert made.config == replace(CONFIG, method=made.config.method)
    assert Experiment.from_toml(path) == WHOLE


def test_in_full_nothing_is_a_proxy_and_the_recipe_is_not_for_ranking() -> None:
    assert WHOLE.in_full() == replace(WHOLE, fidelity=Fidelity(recipe="paper-deit-s"))
    brief = replace(WHOLE, fidelity=Fidelity(32, 20, 10, 2, "short", views=3))
    assert brief.in_full() == replace(WHOLE, fidelity=Fidelity(recipe="standard"))


def test_differences_are_told_by_their_keys() -> None:
    assert WHOLE.differences(replace(WHOLE, name="other")) == []
    other = replace(WHOLE, seed=1, config=replace(CONFIG, lr=None))
    assert WHOLE.differences(other) == [
        f"study.seed: {WHOLE.seed} → 1",
        "config.lr: 0.01 → 'unset'",
    ]
