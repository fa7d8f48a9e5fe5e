"""The smallest thing that trains: a line, its data and its recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bsr_explorer.train.recipes import Recipe

PLAIN = Recipe("plain", "ours", "sgd", lr=0.1, weight_decay=0.0, epochs=1, batch_size=4, warmup_steps=0)


class Line(nn.Module):
    """A linear classifier of 3 classes, with blocks as a vision transformer has, but none."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, 15).reshape(3, 5))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x)
        return out


def batches(count: int = 20, batch: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 5, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size=batch)
