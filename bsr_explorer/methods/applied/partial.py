"""A linear layer of whose weight some columns, rows or entries train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.partial import DIMS
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Shape


class _Partial(Function):
    """x·Wᵀ + b of x (…, in). Of columns, keeps the channels that they read; of rows and entries, x; and W if x needs a
    gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        own: torch.Tensor,
        index: torch.Tensor,
        part: str,
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        Args:
            own: the columns (out, r), rows (r, in) or entries (r,), which are in the weight already.
            seen: to which the squares of the whole weight's gradient are added (for entries).
        """
        out = F.linear(x, weight, bias)
        ctx.part, ctx.index, ctx.seen = part, index, seen
        read = x.index_select(x.dim() - 1, index) if part == "columns" else x
        ctx.save_for_backward(read, weight if ctx.needs_input_grad[0] else None)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x and of the columns, rows or entries."""
        (gradient,) = gradients
        read, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        outputs = rows.index_select(1, ctx.index) if ctx.part == "rows" else rows
        of_own = outputs.t().mm(read.view(-1, read.shape[-1]))
        del outputs
        if ctx.seen is not None:
            # A scaled gradient may overflow. (Of what is looked at, nothing else is made.)
            ctx.seen.add_(of_own.float().square_().nan_to_num_(0, 0))
        if ctx.part == "entries":
            of_own = of_own.view(-1).index_select(0, ctx.index)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = rows.mm(weight).view(*gradient.shape[:-1], -1)
        return of_x, None, None, of_own, None, None, None


class PartialLinear(nn.Module):
    """Takes the place of a linear layer; weight and bias keep their names.

    Args:
        part: ``columns``, ``rows`` or ``entries``, and the name of the parameter that holds them.
        r: how many, drawn from torch's global generator.

    Attributes:
        seen: of each entry the squares of its gradients (out, in), added up in fp32, where they are looked at.
    """

    index: torch.Tensor
    bias: nn.Parameter | None
    seen: torch.Tensor | None = None

    def __init__(self, layer: nn.Linear, part: str, r: int) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.part = layer.weight, part
        self.register_parameter("bias", layer.bias)
        self.dim = DIMS[part] or 0
        lines = self._lines()
        drawn = torch.randperm(lines.shape[self.dim], device=lines.device)[:r]
        self.register_buffer("index", drawn.sort().values)
        self.register_parameter(part, nn.Parameter(lines.index_select(self.dim, self.index)))

    def _lines(self) -> torch.Tensor:
        """The weight, past autograd, as what is chosen along ``dim``: (out, in), or (out·in,) for entries."""
        weight = self.weight.data
        return weight.view(-1) if DIMS[self.part] is None else weight

    @torch.no_grad()
    def choose(self) -> None:
        """Let those entries train of which most was seen, and look no more."""
        assert self.seen is not None
        self.index.copy_(self.seen.view(-1).topk(len(self.index)).indices.sort().values)
        self.get_parameter(self.part).copy_(self._lines().index_select(self.dim, self.index))
        self.seen = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        own: torch.Tensor = self.get_parameter(self.part)
        # Past autograd, which holds the weight perhaps: within a step, these are the values that it has.
        self._lines().index_copy_(self.dim, self.index, own.data)
        if not (torch.is_grad_enabled() and (x.requires_grad or own.requires_grad)):
            return F.linear(x, self.weight, self.bias)
        device = x.device.type
        weight: torch.Tensor = self.weight
        bias: torch.Tensor | None = self.bias
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            own, bias = own.to(dtype), None if bias is None else bias.to(dtype)
            weight, x = weight.to(dtype), x.to(dtype)
        with torch.autocast(device, enabled=False):
            out: torch.Tensor = _Partial.apply(x, weight, bias, own, self.index, self.part, self.seen)
        return out

    def extra_repr(self) -> str:
        """Sizes, and what trains."""
        return f"{self.in_features}, {self.out_features}, {len(self.index)} {self.part}"


def train_part_of(
    model: nn.Module, layers: tuple[str, ...], count: Callable[[str, Shape], int], part: str
) -> None:
    """Let columns, rows or entries of chosen linear layers of all blocks be parameters of their own, in place.

    Args:
        count: how many, of a layer's name in ``LAYERS`` and the shape of its weight.
    """
    for block in blocks_of(model):
        for name in layers:
            parent, _, child = LAYERS[name].rpartition(".")
            layer: Any = block.get_submodule(LAYERS[name])
            made = PartialLinear(layer, part, count(name, tuple(layer.weight.shape)))
            block.get_submodule(parent).add_module(child, made)


def most_sensitive(model: nn.Module, room: int) -> Iterator[AbstractContextManager[None]]:
    """Rounds in which entries' squared gradients are added up; at the end of each, the entries of which most was seen
    are those that train. The optimiser must not have stepped.

    Args:
        room: bytes that a round may take: the sums of its layers, of which there is one at least, and the largest
            gradient in fp32.
    """
    layers = [
        layer for layer in model.modules() if isinstance(layer, PartialLinear) and layer.part == "entries"
    ]
    together: list[PartialLinear] = []
    room -= max(map(_sums, layers), default=0)
    for layer in layers:
        if together and sum(map(_sums, together)) + _sums(layer) > room:
            yield _most_sensitive(together)
            together = []
        together.append(layer)
    if together:
        yield _most_sensitive(together)


def _sums(layer: PartialLinear) -> int:
    return layer.weight.numel() * torch.float32.itemsize


@contextmanager
def _most_sensitive(layers: Sequence[PartialLinear]) -> Iterator[None]:
    try:
        for layer in layers:
            layer.seen = torch.zeros_like(layer.weight, dtype=torch.float32)
        yield
        for layer in layers:
            layer.choose()
    finally:
        for layer in layers:
            layer.seen = None
