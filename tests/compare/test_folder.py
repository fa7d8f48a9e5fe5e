"""The folder of a comparison: what is left open is settled once, and what is another's is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.compare import run as module
from bsr_explorer.compare.folder import keep, settle, stored
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.store.comparison_folder import FILE, STEPS, read_step_times
from bsr_explorer.store.folder import alone
from bsr_explorer.store.records import read_records, write_record

MakeComparison = Callable[..., Any]

BUDGET = "1400KB"
"""Holds neither full fine-tuning nor what is checkpointed."""


def test_what_is_left_open_is_settled_once(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = settle(make_comparison(fidelity=Fidelity()), tmp_path, 32)
    assert made.fidelity == {
        "image_size": 32,
        "train_size": 500,
        "val_size": 359,  # all that digits has
        "epochs": 3,
        "recipe": "short",
        "views": None,
        "skip": None,
        "protocol": "held-out",
    }
    assert made.weights == "random"


def test_all_images_are_all_of_them(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = make_comparison(fidelity=Fidelity())
    assert not made.settled
    made = settle(made, tmp_path, 48, images=None)
    assert made.settled
    assert (made.trained_at, made.fidelity["train_size"], made.fidelity["val_size"]) == (48, 1078, 359)


def test_the_authors_protocol_takes_all_images(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = settle(make_comparison(fidelity=Fidelity(protocol="authors")), tmp_path, 32)
    assert (made.fidelity["train_size"], made.fidelity["val_size"]) == (1437, 360)
    assert settle(made, tmp_path, 32) == made
    with pytest.raises(UserError, match="--train-size: 100 is not allowed with --protocol authors"):
        settle(make_comparison(fidelity=Fidelity(protocol="authors", train_size=100)), tmp_path, 32)


def test_runs_of_two_protocols_do_not_stand_in_one_folder(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    other = make_comparison(fidelity=Fidelity(protocol="authors"))
    with pytest.raises(UserError, match=r"fidelity\.protocol: 'held-out' → 'authors'"):
        stored(other, compared_folder)


def test_a_comparison_of_before_there_were_protocols_goes_on(
    compared_folder: Path, make_comparison: MakeComparison
) -> None:
    path = compared_folder / "comparison.json"
    values = json.loads(path.read_text())
    del values["fidelity"]["protocol"]
    path.write_text(json.dumps(values))
    assert stored(make_comparison(), compared_folder) == make_comparison()


def test_what_was_said_is_kept(make_comparison: MakeComparison, tmp_path: Path) -> None:
    made = make_comparison()
    assert settle(made, tmp_path, 16) == made


def test_a_recipe_of_steps_has_as_many_epochs_as_they_take(
    make_comparison: MakeComparison, toy: str, tmp_path: Path
) -> None:
    config = Config(toy, 48, batch_size=4, optimizer="sgd_momentum")
    fidelity = Fidelity(train_size=40, recipe="paper-vit-b")
    assert settle(make_comparison(config=config, fidelity=fidelity), tmp_path, 32).fidelity["epochs"] == 2000


def test_sizes_that_do_not_exist_are_refused(make_comparison: MakeComparison, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--train-size: 99999 images of digits is out of range"):
        settle(make_comparison(fidelity=Fidelity(train_size=99_999)), tmp_path, 32)


def test_a_folder_completes_what_is_left_open(
    compared_once: Path, make_comparison: MakeComparison, tmp_path: Path
) -> None:
    asked = make_comparison("linear", fidelity=Fidelity(), weights="auto", seeds=5, budget=BUDGET)
    found = stored(asked, compared_once)
    assert found is not None
    assert (found.fidelity, found.weights) == (make_comparison().fidelity, "random")
    assert (found.seeds, found.budget, len(found.entries)) == (5, BUDGET, 1)
    assert stored(asked, tmp_path) is None


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"data": "fashion_mnist"}, "data: 'digits' → 'fashion_mnist'"),
        ({"weights": "offline"}, "weights: 'random' → 'offline'"),
        ({"fidelity": Fidelity(32, 20, 20, 2)}, "fidelity.epochs: 1 → 2"),
        ({"config": {"batch_size": 2, "precision": "bf16"}}, "batch_size: 4 → 2; precision: 'fp32' → 'bf16'"),
    ],
)
def test_another_comparison_is_refused_with_the_difference(
    compared_once: Path, make_comparison: MakeComparison, toy: str, changed: dict[str, Any], difference: str
) -> None:
    if "config" in changed:
        changed = {"config": replace(Config(toy, 48, batch_size=4), **changed["config"])}
    with pytest.raises(UserError) as refused:
        stored(make_comparison(**changed), compared_once)
    assert f"--out: {compared_once} holds another comparison ({difference})" in str(refused.value)


def test_costs_alone_bind_nobody(
    compared_folder: Path, make_comparison: MakeComparison, tmp_path: Path
) -> None:
    costs = make_comparison(fidelity=Fidelity(), weights="auto")
    keep(costs, tmp_path / "costs")
    assert stored(make_comparison(data="fashion_mnist"), tmp_path / "costs") is None
    found = stored(costs, compared_folder)  # which does not forget what it has decided
    assert found is not None and found.settled


def test_nothing_is_kept_beside_one_at_work(make_comparison: MakeComparison, tmp_path: Path) -> None:
    with (
        alone(tmp_path, module.LOCK, "comparison"),
        pytest.raises(UserError, match="--out: another comparison is at work"),
    ):
        keep(make_comparison(), tmp_path)


def test_records_of_something_else_are_refused(
    compared_folder: Path, study_folder: Path, make_comparison: MakeComparison
) -> None:
    with pytest.raises(UserError, match="is the folder of a study, not of a comparison"):
        stored(make_comparison(), study_folder)
    record = read_records(compared_folder)[0]
    write_record(compared_folder, 9, replace(record, data="fashion_mnist"))
    with pytest.raises(UserError, match=r"0009\.json is not of this comparison; move it away"):
        stored(make_comparison(), compared_folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": []}', '{"entries": [{"a": 1}]}'])
def test_a_broken_file_is_named(compared_folder: Path, make_comparison: MakeComparison, content: str) -> None:
    (compared_folder / FILE).write_text(content)
    with pytest.raises(UserError, match=f"{compared_folder / FILE}: not a comparison"):
        stored(make_comparison(), compared_folder)
    (compared_folder / STEPS).write_text(content)
    with pytest.raises(UserError, match=f"{compared_folder / STEPS}: not the times of steps"):
        read_step_times(compared_folder)
