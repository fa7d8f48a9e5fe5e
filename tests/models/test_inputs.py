"""What models are given."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.errors import UserError
from bsr_explorer.models.inputs import IMAGES, TOKENS, inputs_of


def test_images_have_a_label_each() -> None:
    images, labels = IMAGES.drawn(4, 8, 3, torch.Generator().manual_seed(0))
    assert images.shape == (4, 3, 8, 8) and images.dtype == torch.float32
    assert labels.shape == (4,) and int(labels.max()) < 3


def test_every_token_has_a_label() -> None:
    tokens, labels = TOKENS.drawn(4, 8, 5, torch.Generator().manual_seed(0))
    assert tokens.shape == labels.shape == (4, 8) and tokens.dtype == torch.int64
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 5 and not torch.equal(tokens, labels)


def test_empty_ones_are_as_those_that_are_drawn() -> None:
    for kind, name, dtype in ((IMAGES, "images", torch.bfloat16), (TOKENS, "tokens", torch.int64)):
        drawn = kind.drawn(2, 8, 5, torch.Generator())
        empty = kind.empty(2, 8, torch.bfloat16)
        assert list(empty) == [name, "labels"]
        assert [tuple(each.shape) for each in empty.values()] == [tuple(each.shape) for each in drawn]
        assert empty[name].dtype == dtype


def test_labels_are_of_images_or_of_pixels() -> None:
    model = torch.nn.ReLU()
    assert inputs_of(model, IMAGES) is IMAGES
    assert inputs_of(model, TOKENS) is TOKENS
    model.labels = "pixels"  # type: ignore[assignment]
    assert inputs_of(model, IMAGES).labels(2, 8) == (2, 8, 8)
    model.labels = "boxes"  # type: ignore[assignment]
    with pytest.raises(UserError, match="labels: 'boxes' have none; choose images or pixels"):
        inputs_of(model, IMAGES)
