"""Batches of a part of the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.data import images as images_module
from bsr_explorer.data.loader import Pixels, fewest_together, loader
from bsr_explorer.errors import UserError
from tests.data.making import batches, load


def test_the_order_of_batches_follows_from_the_seed() -> None:
    train = load("digits").train

    def two_epochs(seed: int) -> list[list[int]]:
        drawn = loader(train, 64, shuffle=True, seed=seed, drop_last=True)
        return [torch.cat([labels for _, labels in drawn]).tolist() for _ in range(2)]

    first = two_epochs(0)
    assert first == two_epochs(0)
    assert first[0] != first[1] and first != two_epochs(1)
    assert len(first[0]) == 1078 // 64 * 64


def test_batches_have_images_and_labels() -> None:
    images, labels = batches(load("digits").validation)[0]
    assert images.shape == (20, 3, 16, 16) and images.dtype == torch.float32
    assert labels.shape == (20,) and labels.dtype == torch.int64


def test_a_batch_that_would_be_dropped_and_is_the_only_one() -> None:
    with pytest.raises(UserError, match="--batch-size: 20 is more than the 15 images; choose at most 15"):
        batches(load("digits", train_size=15).train, drop_last=True)


def test_workers_load_what_is_not_kept() -> None:
    splits = load("digits", train_size=40, augment="crop")
    first, again = (batches(splits.train, workers=1)[0][0] for _ in range(2))
    assert torch.equal(first, again)
    assert loader(splits.validation, 8, shuffle=False, seed=0, drop_last=False, workers=2).num_workers == 0


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop_flip"])
@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("kept", [True, False])
def test_raw_batches_are_the_same_before_they_are_normalised(
    augment: Any, views: int | None, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(images_module, "KEPT_BYTES", 0)
    options = {"augment": augment, "views": views, "train_size": 30}

    def epochs(**how: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        part = load("digits", **options).train
        drawn = loader(part, 8, shuffle=True, seed=3, drop_last=False, **how)
        torch.manual_seed(5)
        made = []
        for epoch in range(2):
            drawn.dataset.turn_to(epoch)  # type: ignore[attr-defined]
            made += list(drawn)
        assert isinstance(drawn.dataset, Pixels) == bool(how)
        return [(part.normalised(images) if how else images, labels) for images, labels in made]

    for mine, theirs in zip(epochs(raw=True), epochs(), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])
        assert mine[0].stride() == theirs[0].stride()
        assert (mine[0].dtype, mine[1].dtype) == (theirs[0].dtype, theirs[1].dtype)


def test_raw_batches_are_a_quarter_as_large() -> None:
    images, labels = batches(load("digits").validation, raw=True)[0]
    assert (images.dtype, labels.dtype, images.shape) == (torch.uint8, torch.int64, (20, 3, 16, 16))


def test_other_data_sets_are_left_alone() -> None:
    plain = torch.utils.data.TensorDataset(torch.zeros(4, 2), torch.arange(4))
    drawn = loader(plain, 2, shuffle=False, seed=0, drop_last=False, raw=True)
    assert drawn.dataset is plain
    assert [labels.tolist() for _, labels in drawn] == [[0, 1], [2, 3]]


def test_each_batch_is_of_one_task_where_that_is_asked_for() -> None:
    data = "tasks(digits, turned(digits), batches=by_task)"
    part = load(data, train_size=150).train
    assert part.groups == ((0, 75), (75, 150))
    drawn = list(loader(part, 20, shuffle=True, seed=0, drop_last=False))
    tasks = [{bool(label >= 10) for label in labels.tolist()} for _, labels in drawn]
    assert all(len(each) == 1 for each in tasks)
    assert [len(labels) for _, labels in drawn].count(15) == 2 and sum(
        len(labels) for _, labels in drawn
    ) == 150
    order = [each.pop() for each in tasks]
    assert order != sorted(order)  # batches of the tasks come in turn
    again = list(loader(part, 20, shuffle=True, seed=0, drop_last=False))
    assert all((one[1] == other[1]).all() for one, other in zip(drawn, again, strict=True))
    full = loader(part, 20, shuffle=True, seed=0, drop_last=True)
    assert len(full) == 6 and {len(labels) for _, labels in full} == {20}
    with pytest.raises(UserError, match="--batch-size: 80 is more than the 75 images of a task"):
        loader(part, 80, shuffle=True, seed=0, drop_last=True)


def test_a_batch_has_as_many_images_as_its_smallest_task() -> None:
    part = load("tasks(digits, turned(digits), batches=by_task)", train_size=150).train
    assert fewest_together(part) == 75
    assert fewest_together(load("digits", train_size=40).train) == 40


def test_tasks_are_mixed_unless_something_else_is_asked_for() -> None:
    part = load("tasks(digits, turned(digits))", train_size=150).train
    assert part.groups == ()
    drawn = list(loader(part, 20, shuffle=True, seed=0, drop_last=False))
    assert all(len({bool(label >= 10) for label in labels.tolist()}) == 2 for _, labels in drawn[:-1])
