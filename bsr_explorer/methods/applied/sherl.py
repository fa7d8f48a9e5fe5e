"""Features of all blocks of a timm vision transformer, put together before the last one."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bsr_explorer.methods.sherl import AGGREGATION
from bsr_explorer.naming import blocks_of

TEMPERATURE = 0.1
"""Of the gate that opens what the backbone itself hands on."""

_LEAST, _LEAST_IN_FP16 = 1e-6, 1e-3
"""Added to what is divided by, as in the authors' code; in fp16, whose largest number is 65,504, more: a token without
features would get an infinite weight."""


class _Weighed(NamedTuple):
    """Of T tokens and n layers: lengths (T, n), directions (T, n, H), cosines above 0 (T, n, n), redundancy (T, n);
    what relevance is measured by (T, H), relevance (T, n), weights (T, n), and what these were divided by (T, 1)."""

    lengths: Tensor
    directions: Tensor
    cosines: Tensor
    redundancy: Tensor
    measure: Tensor
    relevance: Tensor
    weights: Tensor
    total: Tensor


def _weighed(layers: Tensor, deep: Tensor, relevance: Tensor, bias: Tensor) -> _Weighed:
    """Layers (T, n, H), weighted as ``deep`` (T, H) says."""
    least = _LEAST_IN_FP16 if layers.dtype == torch.float16 else _LEAST
    lengths = torch.linalg.vector_norm(layers, dim=-1).add_(least)
    directions = layers / lengths.unsqueeze(-1)
    cosines = torch.bmm(directions, directions.mT).relu_()
    redundancy = cosines.sum(-1).add_(least)
    measure = deep * relevance.to(deep.dtype)
    found = torch.bmm(layers, measure.unsqueeze(-1)).squeeze(-1).add_(bias).relu_()
    weights = found / redundancy
    total = weights.sum(-1, keepdim=True).add_(least)
    return _Weighed(lengths, directions, cosines, redundancy, measure, found, weights.div_(total), total)


class _Aggregate(Function):
    """ReLU(deep + Σ weight·layer) of T tokens. Keeps the layers, deep and the result."""

    @staticmethod
    def forward(ctx: Any, relevance: Tensor, bias: Tensor, *features: Tensor) -> Tensor:
        """Features (B, N, H), the deepest last → (B, N, H)."""
        layers, deep = _stacked(features)
        made = _aggregated(layers, deep, relevance, bias).view(features[-1].shape)
        ctx.save_for_backward(layers, features[-1], made, relevance, bias)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of all, through weights, relevance and redundancy."""
        layers, deepest, made, relevance, bias = ctx.saved_tensors
        deep, shape = deepest.flatten(0, 1), deepest.shape
        gradient = torch.ops.aten.threshold_backward(gradients[0], made, 0).flatten(0, 1)
        w = _weighed(layers, deep, relevance, bias)
        of_weights = torch.bmm(layers, gradient.unsqueeze(-1)).squeeze(-1)
        of_weights.sub_((of_weights * w.weights).sum(-1, keepdim=True)).div_(w.total)
        of_redundancy = (of_weights * w.relevance).div_(w.redundancy).div_(w.redundancy).neg_()
        of_relevance = (of_weights / w.redundancy).mul_(w.relevance.sign_())
        of_measure = torch.bmm(of_relevance.unsqueeze(1), layers).squeeze(1)
        of_w = (of_measure * deep).sum(0, dtype=relevance.dtype)
        of_bias = of_relevance.sum(dtype=bias.dtype).view(1)
        of_layers = w.weights.unsqueeze(-1) * gradient.unsqueeze(1)
        of_layers.addcmul_(of_relevance.unsqueeze(-1), w.measure.unsqueeze(1))
        of_layers.add_(_through_cosines(w, of_redundancy))
        each = [of_layer.clone().view(shape) for of_layer in of_layers.unbind(1)]
        of_deep = of_measure.mul_(relevance.to(deep.dtype)).add_(gradient).view(shape)
        return of_w, of_bias, *each, of_deep


def _through_cosines(w: _Weighed, of_redundancy: Tensor) -> Tensor:
    """The gradient of layers (T, n, H) by way of their directions."""
    of_cosines = (of_redundancy.unsqueeze(-1) + of_redundancy.unsqueeze(-2)).mul_(w.cosines.sign_())
    of_directions = torch.bmm(of_cosines, w.directions)
    along = (of_directions * w.directions).sum(-1, keepdim=True)
    return of_directions.addcmul_(w.directions, along, value=-1).div_(w.lengths.unsqueeze(-1))


def _stacked(features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Shallow layers (T, n, H), and the deep one (T, H)."""
    *shallow, deepest = features
    deep = deepest.flatten(0, 1)
    layers = torch.stack(shallow, 2).flatten(0, 1) if shallow else deep.new_empty(len(deep), 0, deep.shape[1])
    return layers, deep


def _aggregated(layers: Tensor, deep: Tensor, relevance: Tensor, bias: Tensor) -> Tensor:
    w = _weighed(layers, deep, relevance, bias)
    return torch.bmm(w.weights.unsqueeze(1), layers).squeeze(1).add_(deep).relu_()


def aggregate(features: list[Tensor], relevance: Tensor, bias: Tensor) -> Tensor:
    """Features (B, N, H), the deepest last, with relevance (H,) and bias (1,) → (B, N, H)."""
    with torch.autocast(features[-1].device.type, enabled=False):
        if not torch.is_grad_enabled():
            return _aggregated(*_stacked(tuple(features)), relevance, bias).view(features[-1].shape)
        made: Tensor = _Aggregate.apply(relevance, bias, *features)
        return made


# --- what the backbone itself hands on ----------------------------------------------------------------------


def _opened(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return (x * (gate / TEMPERATURE).tanh_().to(x.dtype)).add_(y)


def _of_gate(gradient: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    total = (gradient * x).sum(dtype=torch.float32)
    share = (gate / TEMPERATURE).tanh_()
    return (1 - share.square_()).mul_(total).div_(TEMPERATURE)


class _Opened(Function):
    """tanh(gate/T)·x + y, where x needs no gradient. Keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """x and y (…), gate (1,)."""
        ctx.save_for_backward(x, gate)
        ctx.dtype = y.dtype
        return _opened(x, y, gate)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of y and of the gate."""
        (gradient,) = gradients
        of_gate = _of_gate(gradient, *ctx.saved_tensors)
        return None, gradient.to(ctx.dtype), of_gate


def add_opened(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """tanh(gate/T)·x + y, for a constant x and y (…), and gate (1,)."""
    if not torch.is_grad_enabled():
        return _opened(x, y, gate)
    made: Tensor = _Opened.apply(x, y, gate)
    return made


# --- modules ------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """What stands before one block: a projection of what enters it, and a norm."""

    def __init__(self, width: int, narrow: int, like: Tensor) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.down, self.norm = nn.Linear(width, narrow, **how), nn.LayerNorm(narrow, eps=1e-6, **how)

    def features(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, H)."""
        # (Without a class token what goes through the blocks lies channel by channel.)
        return cast(Tensor, self.norm(self.down(x.contiguous())))

    def forward(self, x: Tensor, seen: list[Tensor]) -> None:
        """What enters the block (B, N, D) is added to what was ``seen`` before the others, (B, N, H) each."""
        seen.append(self.features(x))


class Last(Layer):
    """What stands before the last block."""

    def __init__(self, width: int, narrow: int, like: Tensor) -> None:
        super().__init__(width, narrow, like)
        bound = narrow**-0.5  # as that of torch's linear layers
        self.relevance = nn.Parameter(like.new_empty(narrow).uniform_(-bound, bound))
        self.bias = nn.Parameter(like.new_empty(1).uniform_(-bound, bound))
        self.gate = nn.Parameter(like.new_zeros(1))
        self.up = nn.Linear(narrow, width, device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:  # type: ignore[override]
        """What enters the block (B, N, D), and what was seen → what enters it instead (B, N, D)."""
        seen.append(self.features(x))
        return add_opened(x, self.up(aggregate(seen, self.relevance, self.bias)), self.gate)


class _Collecting:
    """Hooks that collect features, and put them together."""

    def __init__(self, first: nn.Module) -> None:
        self._seen: list[Tensor] = []
        self._first = first

    def before(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Pre-hook of a block."""
        if block is self._first:
            self._seen = []  # without what is left of a pass that was broken off
        block.get_submodule(AGGREGATION)(inputs[0], self._seen)

    def before_last(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pre-hook of the last block."""
        seen, self._seen = self._seen, []
        return (block.get_submodule(AGGREGATION)(inputs[0], seen),)


def add_aggregation(model: nn.Module, r: int) -> None:
    """Let features of all blocks of a timm vision transformer, r times narrower, be put together before the last, in
    place."""
    collecting, width = _Collecting(blocks_of(model)[0]), cast(Any, model).embed_dim
    *others, last = blocks_of(model)
    like = next(last.parameters())
    for block in others:
        block.add_module(AGGREGATION, Layer(width, width // r, like))
        block.register_forward_pre_hook(collecting.before)
    last.add_module(AGGREGATION, Last(width, width // r, like))
    last.register_forward_pre_hook(collecting.before_last)
