"""Batches of a part of the data."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.data.loader import loader
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
