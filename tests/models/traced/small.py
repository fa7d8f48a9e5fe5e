"""Small models with what tapes stumble over, as a user's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.models.traced.calls import Trace
from bsr_explorer.models.traced.running import trace


class Half(torch.autograd.Function):
    """A function with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] / 2 + 0 * x


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True))


class Strange(nn.Module):
    """Tied weights, a constant, a function of its own, a change in place of a view, dropout, several
    results of one call, a part without a graph."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.place = nn.Parameter(torch.zeros(1, 2, 8))
        self.scale = torch.linspace(0.5, 1.5, 8)  # neither a parameter nor a buffer
        self.drop = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)
        left, right = self.second(torch.tanh(self.first(x))).chunk(2, dim=1)
        x = torch.cat([left * self.scale, right], dim=1)
        x[:, :2] += self.place
        x = self.drop(Half.apply(x))
        with torch.no_grad():
            weight = x.norm(dim=-1, keepdim=True).softmax(dim=1)
        return self.head(self.norm((x * weight).sum(dim=1)))


def build(num_classes: int = 10) -> nn.Module:
    """The strange one."""
    return Strange(num_classes)


def own_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """A mean squared error."""
    return F.mse_loss(logits.sigmoid(), F.one_hot(labels, logits.shape[1]).float())


def no_scalar(logits: Tensor, labels: Tensor) -> Tensor:
    """One loss an image."""
    return F.cross_entropy(logits, labels, reduction="none")


class Beside(nn.Module):
    """Makes something that nobody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 5), nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.mean(dim=(2, 3))
        self.layer(x).exp()
        return self.head(x)


def beside() -> nn.Module:
    """See ``Beside``."""
    return Beside()


class SharingBlock(Block):
    """A block that uses a layer of the model."""

    def __init__(self, width: int, place: nn.Module) -> None:
        super().__init__(width)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.place(x))


class Sharing(nn.Module):
    """Blocks that share a layer, which stands before them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.place = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(SharingBlock(8, self.place) for _ in range(3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


def sharing(num_classes: int = 10) -> nn.Module:
    """See ``Sharing``."""
    return Sharing(num_classes)


class Deciding(nn.Module):
    """What it does depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.mean(dim=(2, 3))
        if x.sum() > 0:
            x = -x
        return self.head(x)


class Recurrent(nn.Module):
    """An LSTM over patches: products that torch has no FLOP formula of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.rnn = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        out: Tensor = self.head(self.rnn(x)[0].mean(dim=1))
        return out


def recurrent() -> nn.Module:
    """See ``Recurrent``."""
    return Recurrent()


class Dotted(nn.Module):
    """Each logit times a product of two parameters that has no FLOP formula."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(3, 10), nn.Parameter(torch.ones(10))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(images.mean(dim=(2, 3))) * torch.dot(self.head.bias, self.scale)
        return out


def dotted() -> nn.Module:
    """See ``Dotted``."""
    return Dotted()


class Turning(torch.autograd.Function):
    """Its backward depends on numbers, and takes memory that nobody sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x + x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        if gradients[0].sum() > 1e9:
            return -x
        return gradients[0] * 2 + x.repeat(8, 1, 1)[: len(x)] * 0


class Turned(nn.Module):
    """A patch layer, twice what it makes, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        out: Tensor = self.head(Turning.apply(x).sum(dim=1))
        return out


def turned() -> nn.Module:
    """See ``Turned``."""
    return Turned()


class Detecting(nn.Module):
    """A detector of torchvision, which wants lists of images and of boxes."""

    def __init__(self, targets: bool) -> None:
        super().__init__()
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        self.body = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        self.targets = targets

    def forward(self, images: Tensor) -> Tensor:
        boxes = torch.tensor([[1.0, 1.0, 30.0, 30.0]])
        target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64)}
        out: Tensor = sum(self.body([*images], [target] * len(images) if self.targets else None).values())
        return out


def detecting(targets: bool = True) -> nn.Module:
    """See ``Detecting``."""
    return Detecting(targets)


def painting(num_classes: int, width: int = 4) -> nn.Module:
    """Logits of each pixel."""
    model = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))
    model.labels = "pixels"  # type: ignore[assignment]
    return model


def deciding() -> nn.Module:
    """See ``Deciding``."""
    return Deciding()


def nothing() -> str:
    """No module."""
    return "a model"


def failing(image_size: int) -> nn.Module:
    """Fails."""
    raise RuntimeError(f"no model for {image_size} pixels")


class AttentionBlock(nn.Module):
    """x + attention of torch's own, of one tensor alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]  # type: ignore[no-any-return]


class Attending(nn.Module):
    """Two such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.blocks = nn.Sequential(AttentionBlock(), AttentionBlock())

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).mean(1))  # type: ignore[no-any-return]


def attending() -> nn.Module:
    """See above."""
    return Attending()


def traced(model: nn.Module, size: int = 16) -> Trace:
    """Its trace with two images."""
    return trace(
        model, {"images": torch.empty(2, 3, size, size), "labels": torch.zeros(2, dtype=torch.int64)}
    )


class Of(nn.Module):
    """Features of a mean image by one function, and a head."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.function(images.mean(dim=(2, 3))))
        return out
