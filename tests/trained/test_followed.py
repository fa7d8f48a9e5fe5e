"""A few validation images, and what becomes of their patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job, load_data
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.trained.followed import check, strip_of

pytestmark = pytest.mark.usefixtures("toy")


def _experiment(method: str, **changes: object) -> Experiment:
    return Experiment("strip", Config("toy", 48, 10, 2, method=method), weights="random", **changes)  # type: ignore[arg-type]


def test_images_are_of_different_classes_and_as_they_are_on_disk(tmp_path: Path) -> None:
    experiment = _experiment("full+drop({1: 0.5})", seed=3)
    strip = strip_of(experiment, None, tmp_path, images=4, control=True)
    assert len(set(strip.classes)) == 4
    assert strip.images.shape == (4, 48, 48, 3)
    assert 0 <= strip.images.min() < strip.images.max() <= 1
    splits = load_data(experiment.config, Job(weights="random"))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in splits.mean_std)
    every = {np.float32((i * std + mean).sum().item()).round(1) for i, _ in splits.validation}
    assert {np.float32(each.sum()).round(1) for each in strip.images} <= every
    assert [each.block for each in (*strip.followed, *strip.control)] == [1, 1]
    assert strip.followed[0].places.shape == (4, 9)


def test_images_are_those_of_the_size_that_is_trained_at(tmp_path: Path) -> None:
    experiment = _experiment("full+tome(r=1)", fidelity=Fidelity(image_size=32))
    strip = strip_of(experiment, None, tmp_path, images=2, control=False)
    assert strip.images.shape == (2, 32, 32, 3)
    assert len(strip.followed) > 1
    assert strip.control == []


@pytest.mark.parametrize(
    ("method", "images", "control", "said"),
    [
        ("alast(K=4)", 4, False, "--method: alast(K=4) drops tokens in training alone"),
        (
            "full+drop({1: 0.5}, inference=False)",
            4,
            False,
            "drops tokens in training alone (inference=False)",
        ),
        ("full", 4, False, "--method: full drops and merges no tokens at 48 px"),
        ("drop({1: 0.95}, criterion='norm')", 4, False, "merges no tokens at 48 px"),
        ("drop({1: 0.5})", 0, False, "--images: 0 is out of range; choose from 1 to 12"),
        ("drop({1: 0.5})", 13, False, "--images: 13 is out of range"),
        ("full+tome(r=1)", 4, True, "--control: full+tome(r=1) drops no tokens"),
    ],
)
def test_what_cannot_be_drawn_is_refused(method: str, images: int, control: bool, said: str) -> None:
    with pytest.raises(UserError) as error:
        check(_experiment(method).config, images, control)
    assert said in str(error.value)
