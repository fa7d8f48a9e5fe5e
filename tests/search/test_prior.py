"""An earlier study as a first guess: read, kept, refused where it says nothing, and worth its trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import create_trial

from bsr_explorer.errors import UserError
from bsr_explorer.search import exact
from bsr_explorer.search.coordinator import Search
from bsr_explorer.search.exact import GUIDED, ExactCostSampler
from bsr_explorer.search.prior import KEPT, LEAST, Prior
from bsr_explorer.search.space import Space
from bsr_explorer.search.surrogate import Surrogate
from bsr_explorer.store.records import read_records, write_record
from bsr_explorer.store.study import FILE, Study
from tests.search.test_surrogate import DEPTH, accuracy, configurations

pytestmark = pytest.mark.usefixtures("toy")

MakeStudy = Callable[..., Study]
OpenSearch = Callable[..., Search]


@pytest.fixture
def guided(make_study: MakeStudy, study_folder: Path) -> Study:
    """A study that begins with another one."""
    return replace(make_study(), sampler="exact", prior=str(study_folder), name="guided")


def test_it_is_what_finished_with_the_mean_of_its_seeds(guided: Study, study_folder: Path) -> None:
    records = read_records(study_folder)
    again = replace(records[0], accuracy=1.0, study={**records[0].study, "replica": 1})
    write_record(study_folder, 7, again)
    write_record(study_folder, 1, replace(records[1], status="diverged", accuracy=None))
    found = dict(Prior.read(guided).found)
    assert len(found) == 6
    first = found[guided.config.with_method(records[0].config["method"])]
    assert first == pytest.approx(((records[0].accuracy or 0) + 1) / 2)


def test_its_configurations_are_run_as_the_new_study_runs_them(guided: Study) -> None:
    study = replace(guided, config=replace(guided.config, precision="amp_bf16", batch_size=8))
    for config, _ in Prior.read(study).found:
        assert (config.precision, config.batch_size) == (
            "amp_bf16",
            4,
        )  # a batch size is a choice, a precision is not


def test_a_study_keeps_what_it_began_with(guided: Study, study_folder: Path, tmp_path: Path) -> None:
    made = Prior.of(guided, tmp_path)
    assert made == Prior.read(guided)
    shutil.rmtree(study_folder)
    assert Prior.of(guided, tmp_path) == made
    (tmp_path / KEPT).write_text('[{"method": "linear"}]')
    with pytest.raises(UserError, match=r"prior\.json cannot be read"):
        Prior.of(guided, tmp_path)
    assert Prior.of(replace(guided, prior=None), tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t["config"].update(model="deit_t"),
            "of another model or space (config.model: 'deit_t' → ",
        ),
        (lambda t: t["space"].update(keep=[1.0, 0.5]), "of another model or space (space.keep: "),
        (lambda t: t["space"].update(families=["last"]), "of another model or space (space.families: "),
    ],
)
def test_a_study_of_another_model_or_space_is_refused(
    guided: Study, study_folder: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    import tomli_w

    tables = Study.from_toml(study_folder / FILE).to_toml()
    change(tables)
    (study_folder / FILE).write_text(tomli_w.dumps(tables))
    with pytest.raises(UserError) as error:
        Prior.read(guided)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_tried_first_the_budget_and_the_data_may_differ(guided: Study) -> None:
    other = replace(guided, budget="1GB", data="elsewhere", space=replace(guided.space, start=("full",)))
    assert Prior.read(other).found


def test_too_few_trials_and_no_study_are_refused(guided: Study, study_folder: Path, tmp_path: Path) -> None:
    for number in (5, 6):
        (study_folder / "records" / f"{number:04d}.json").unlink()
    with pytest.raises(UserError, match=f"--prior: 5 configurations of .* finished, and {LEAST} are needed"):
        Prior.read(guided)
    (study_folder / FILE).unlink()
    with pytest.raises(UserError, match="it is not the folder of a search"):
        Prior.read(guided)
    with pytest.raises(UserError):
        Prior.read(replace(guided, prior=str(tmp_path)))


def test_only_the_sampler_that_learns_accuracy_takes_one(guided: Study) -> None:
    with pytest.raises(UserError, match="--prior: only the sampler exact takes one, not tpe"):
        replace(guided, sampler="tpe")


@pytest.mark.thorough
def test_a_search_goes_on_alike_when_the_earlier_study_is_gone(
    guided: Study, study_folder: Path, open_search: OpenSearch, quiet: Any, tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    known = replace(guided, trials=7, space=replace(guided.space, start=("linear", "last(k=1)", "last(k=2)")))
    open_search(known, whole).run(quiet)
    open_search(replace(known, trials=4), halves).run(quiet)
    shutil.rmtree(study_folder)
    open_search(known, halves).run(quiet)
    keys = [[record.key for record in read_records(folder).values()] for folder in (whole, halves)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 7


# --- what it is worth -----------------------------------------------------------------------------------


def _error(few: int, seed: int, prior: Surrogate | None) -> float:
    rows, others = configurations(few, seed), configurations(200, 99)
    surrogate = Surrogate.fit(rows, accuracy(rows), np.zeros(few), DEPTH, prior)
    return float(np.sqrt(np.mean((surrogate.predict(others)[0] - accuracy(others)) ** 2)))


@pytest.fixture(scope="module")
def earlier() -> Surrogate:
    """Of accuracies that rank alike, lower by half and much noisier."""
    rows = configurations(30, 50)
    noisy = 0.5 * accuracy(rows) + np.random.default_rng(3).normal(0, 0.01, len(rows))
    return Surrogate.fit(rows, noisy, np.zeros(len(rows)), DEPTH)


@pytest.mark.thorough
def test_it_helps_where_few_were_trained(earlier: Surrogate) -> None:
    seeds = range(4)
    with_it, without = (np.mean([_error(4, seed, prior) for seed in seeds]) for prior in (earlier, None))
    assert with_it < 0.9 * without


@pytest.mark.thorough
def test_a_wrong_one_is_forgotten_as_trials_come_in() -> None:
    rows = configurations(30, 50)
    wrong = Surrogate.fit(rows, 1 - accuracy(rows), np.zeros(len(rows)), DEPTH)
    few, many = (_error(count, 1, wrong) / _error(count, 1, None) for count in (5, 60))
    assert many < 1.15
    assert many < few


def test_it_believes_what_is_running_by_it_too(earlier: Surrogate) -> None:
    rows = configurations(6, 2)
    surrogate = Surrogate.fit(rows, accuracy(rows), np.zeros(6), DEPTH, earlier)
    others = configurations(5, 8)
    before, after = surrogate.predict(others), surrogate.believing(others).predict(others)
    assert after[0] == pytest.approx(before[0], abs=0.02)
    assert (after[1] < before[1]).all()


def test_a_guided_sampler_needs_fewer_trials_before_it_learns(
    guided: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space(guided)
    trials = [
        create_trial(
            params=space.encode(c), distributions=space.distributions, values=[0.5, float(c.counted_bytes)]
        )
        for c in space.known[:GUIDED]
    ]

    def stratum(*_: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(exact, "from_strata", stratum)
    with pytest.raises(LookupError):
        ExactCostSampler(space, 1).propose(trials)
    space.prior = Prior.read(guided)
    assert ExactCostSampler(space, 1).propose(trials) is not None
    with pytest.raises(LookupError):
        ExactCostSampler(space, 1).propose(trials[1:])


def test_what_is_kept_is_plain(guided: Study, tmp_path: Path) -> None:
    Prior.of(guided, tmp_path)
    entries = json.loads((tmp_path / KEPT).read_text())
    assert {*entries[0]} == {"method", "batch_size", "lr", "score"}
