"""What a fine-tune needs beside its configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.data import splits as data
from bsr_explorer.errors import UserError
from bsr_explorer.finetune import job as job_module
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.job import Job, load_data, score_on_test
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.train.recipes import HALF, IMAGENET
from tests.finetune.tuning import CONFIG, PROXY, tune

pytestmark = pytest.mark.usefixtures("toy")


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match="--num-classes: the configuration has 7 classes and digits has 10"):
        tune(replace(CONFIG, num_classes=7))


@pytest.mark.parametrize(
    ("model", "optimizer", "weights", "recipe", "expected"),
    [
        ("deit_t", "adamw", "hub", "short", IMAGENET),
        ("vit_t", "adamw", "hub", "short", HALF),
        ("vit_t", "adamw", "offline", "short", IMAGENET),
        ("deit_t", "sgd_momentum", "hub", "paper-vit-b", HALF),
        ("toy", "adamw", "random", "short", IMAGENET),
    ],
)
def test_images_are_normalised_as_the_weights_were_trained(
    monkeypatch: pytest.MonkeyPatch, model: str, optimizer: str, weights: str, recipe: str, expected: Any
) -> None:
    asked: dict[str, Any] = {}

    def watched(name: str, **options: Any) -> Any:
        asked.update(options)
        return data.load_splits(name, **options)

    monkeypatch.setattr(job_module, "load_splits", watched)
    config = Config(model=model, image_size=48, optimizer=optimizer)
    job = Job(weights=weights, fidelity=replace(PROXY, recipe=recipe), data_dir=Path("nowhere"))
    assert len(load_data(config, job).train) == 20
    assert (asked["mean"], asked["std"]) == expected
    assert asked["image_size"] == 32


def test_a_job_has_the_arguments_of_fine_tune() -> None:
    import inspect

    arguments = set(inspect.signature(fine_tune).parameters) - {"config", "progress"}
    assert {f.name for f in fields(Job)} == arguments


TASKS = "tasks(digits, turned(digits))"


def test_tasks_of_other_classes_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"--tasks: the configuration has one task and .*set \[config\] tasks = \[10, 4\]"
    ):
        load_data(replace(CONFIG, num_classes=14), Job(TASKS, PROXY, "random"))
    with pytest.raises(UserError, match="--tasks: the configuration has tasks of 4, 10 classes"):
        load_data(CONFIG.with_classes((4, 10)), Job(TASKS, PROXY, "random"))
    with pytest.raises(
        UserError, match="--tasks: the configuration has tasks of 6, 4 classes and digits has one task"
    ):
        load_data(CONFIG.with_classes((6, 4)), Job("digits", PROXY, "random"))


def test_the_test_set_is_judged_task_by_task() -> None:
    config = CONFIG.with_classes((10, 4))
    job = Job(TASKS, PROXY, "random")
    accuracy, by_task = score_on_test(build(PROXY.at(config)), config, job)
    assert list(by_task) == ["digits", "turned(digits)"]
    assert accuracy == pytest.approx(sum(by_task.values()) / 2)
