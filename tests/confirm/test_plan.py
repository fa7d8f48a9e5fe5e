"""What of a study is trained again: its front, and what comes nearest to it; what is left of it in a folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bsr_explorer.config import Fidelity
from bsr_explorer.confirm.plan import IMAGES, VALIDATION, chosen, config_of, filled, left, target
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import write_record
from bsr_explorer.train.recipes import RECIPES


@pytest.fixture
def found(finished_once: Path) -> Findings:
    return Findings.read(finished_once)


def test_the_front_is_trained_and_what_is_nearest_to_it(found: Findings) -> None:
    front = {point.number for point in found.front}
    for rivals in range(len(found.points) - len(front) + 1):
        if len(front) + rivals < 3:
            continue
        numbers = {point.number for point in chosen(found, rivals)}
        assert front <= numbers
        assert len(numbers) == len(front) + rivals
    assert len(chosen(found, 99)) == len(found.points)


def test_rivals_are_taken_by_what_they_lack(found: Findings) -> None:
    front = found.front

    def lacks(number: int) -> float:
        point = next(point for point in found.points if point.number == number)
        best = max(ahead.score for ahead in front if ahead.bytes <= point.bytes)
        return (best - point.score) / point.standard_error

    ahead = {point.number for point in front}
    taken = {point.number for point in chosen(found, 2)} - ahead
    others = {point.number for point in found.points} - ahead - taken
    assert max(map(lacks, taken)) <= min(map(lacks, others), default=float("inf"))


def test_least_memory_comes_first(found: Findings) -> None:
    sizes = [point.bytes for point in chosen(found, 99)]
    assert sizes == sorted(sizes)


def test_ranks_of_two_are_refused(found: Findings) -> None:
    few = Findings({number: record for number, record in found.records.items() if number < 2})
    with pytest.raises(
        UserError, match=r"STUDY: [12] of its configurations would be trained, and ranks need 3"
    ):
        chosen(few, 0)


def test_the_target_is_the_configurations_own_size(found: Findings) -> None:
    record = found.points[0].record
    assert record.fidelity["image_size"] == 32
    assert target(record, Fidelity(None, 20, 20, 1)).image_size == 48
    assert target(record, Fidelity(32, 20, 20, 1)).image_size == 32
    skipping = replace(record, fidelity={**record.fidelity, "skip": ["a.png"]})
    assert target(skipping, Fidelity()).skip == ("a.png",)


@pytest.mark.parametrize(("there", "taken"), [(5000, IMAGES), (100, 100)])
def test_what_is_left_open_is_what_there_is(there: int, taken: int) -> None:
    settled = filled(Fidelity(48), there, there, RECIPES["short"], 4)
    assert (settled.train_size, settled.val_size) == (taken, min(taken, VALIDATION))
    assert settled.epochs == RECIPES["short"].epochs
    assert filled(Fidelity(48, 7, 9, 2), there, there, RECIPES["short"], 4) == Fidelity(48, 7, 9, 2)


def test_a_configuration_may_move_to_another_device(found: Findings) -> None:
    point = found.points[0]
    assert config_of(point, None).device == "cpu"
    assert config_of(point, "cuda") == replace(config_of(point, None), device="cuda")
    on_a_card = {**point.record.config, "device": "cuda", "gpu": "t4"}
    there = replace(point, record=replace(point.record, config=on_a_card))
    assert (config_of(there, None).gpu, config_of(there, "cpu").gpu) == ("t4", None)


def test_what_a_folder_holds_is_not_trained_again(found: Findings, tmp_path: Path) -> None:
    points = chosen(found, 1)
    job = Job("digits", Fidelity(48, 20, 20, 1), "random")
    whole = [(run.point.number, run.seed) for run in left(points, 2, job, tmp_path)]
    assert whole == [(point.number, seed) for seed in range(2) for point in points]
    record = replace(points[0].record, seed=0, fidelity=asdict(job.fidelity))
    write_record(tmp_path, 0, record)
    assert [(run.point.number, run.seed) for run in left(points, 2, job, tmp_path)] == whole[1:]
    write_record(tmp_path, 0, replace(record, status="failed", accuracy=None))
    assert len(left(points, 2, job, tmp_path)) == len(whole)


def test_a_run_is_said_in_words_and_by_its_work(found: Findings, tmp_path: Path) -> None:
    point = found.points[0]
    run = left([point], 1, Job("digits", Fidelity(48, 20, 20, 1), "random"), tmp_path)[0]
    assert run.what == f"trial {point.number}, seed 0: {point.method}"
    assert run.flops == point.record.predicted["train_flops"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job("digits", Fidelity(48, 30, 20, 1), "random"), "train_size: 20 → 30"),
        (Job("cifar10", Fidelity(48, 20, 20, 1), "random"), "data: 'digits' → 'cifar10'"),
        (Job("digits", Fidelity(48, 20, 20, 1), "offline"), "weights: 'random' → 'offline'"),
    ],
)
def test_runs_of_another_fidelity_are_refused(found: Findings, tmp_path: Path, job: Job, said: str) -> None:
    points = chosen(found, 1)
    write_record(tmp_path, 0, replace(points[0].record, fidelity=asdict(Fidelity(48, 20, 20, 1))))
    with pytest.raises(UserError) as error:
        left(points, 1, job, tmp_path)
    assert f"0000.json was trained otherwise ({said}); give the same settings" in str(error.value)
