"""Normalisation of batches is torchvision's, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from bsr_explorer.data.normalise import Normalise
from bsr_explorer.train.recipes import HALF, IMAGENET, MeanStd


@pytest.mark.parametrize("mean_std", [IMAGENET, HALF, ((0.1307, 0.2, 0.3), (0.3081, 1.0, 0.07))])
def test_it_is_torchvisions_to_the_last_bit(mean_std: MeanStd) -> None:
    mean, std = mean_std
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16).contiguous()
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    ours = Normalise(mean, std)(every)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs(every))
    assert torch.equal(ours[0], Normalise(mean, std)(every[0]))
    assert every.dtype == torch.uint8 and int(every.max()) == 255  # they are left as they are
