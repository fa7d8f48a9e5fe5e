"""A ladder of small blocks beside the blocks of a timm vision transformer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bsr_explorer.methods.adding import BEFORE_HEAD
from bsr_explorer.methods.lst import LADDER
from bsr_explorer.naming import blocks_of

TEMPERATURE = 0.1
"""Of a gate: it opens by the sigmoid of its parameter over this."""

_STD = 0.02
"""Of the normal distribution, cut off, that weights of small blocks are drawn from, as timm's are."""


def _share(gate: Tensor, dtype: torch.dtype) -> Tensor:
    return (gate / TEMPERATURE).sigmoid_().to(dtype)


def _mixed(x: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the difference."""
    difference = x - y
    return (difference * _share(gate, x.dtype)).add_(y), difference


def _of_gate(gradient: Tensor, difference: Tensor, gate: Tensor) -> Tensor:
    """The gradient of the gate (1,)."""
    total = (gradient * difference).sum(dtype=torch.float32)
    share = (gate / TEMPERATURE).sigmoid_()
    return (1 - share).mul_(share).mul_(total).div_(TEMPERATURE)


class _Mix(Function):
    """μ·x + (1 − μ)·y for x and y (…), with μ = σ(gate/T) and gate (1,). Keeps x − y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """The mean."""
        mixed, difference = _mixed(x, y, gate)
        ctx.save_for_backward(difference, gate)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of all three."""
        (gradient,) = gradients
        difference, gate = ctx.saved_tensors
        of_gate = _of_gate(gradient, difference, gate)
        of_x = gradient * _share(gate, gradient.dtype)
        return of_x, gradient - of_x, of_gate


def mix(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """μ·x + (1 − μ)·y for x and y (…), with μ = σ(gate/T) and gate (1,)."""
    if not torch.is_grad_enabled():
        return _mixed(x, y, gate)[0]
    mixed: Tensor = _Mix.apply(x, y, gate)
    return mixed


def narrowed(block: nn.Module, r: int) -> nn.Module:
    """A block like one of timm's, r times narrower, without LayerScale, and with new weights."""
    made: Any = deepcopy(block)
    made.ls1, made.ls2 = nn.Identity(), nn.Identity()
    for module in made.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            new = nn.Parameter(parameter.new_empty([size // r for size in parameter.shape]))
            if isinstance(module, nn.Linear) and name == "weight":
                nn.init.trunc_normal_(new, std=_STD)
            else:
                nn.init.constant_(new, float(name == "weight"))
            module.register_parameter(name, new)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
    attention = made.attn
    attention.head_dim //= r
    attention.attn_dim //= r
    attention.scale = attention.head_dim**-0.5
    return cast(nn.Module, made)


class Rung(nn.Module):
    """What stands beside one block.

    Args:
        block: the frozen one.
        first: whether it is the first of all.
    """

    def __init__(self, width: int, r: int, block: nn.Module, first: bool) -> None:
        super().__init__()
        like = next(block.parameters())
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.gate = nn.Parameter(like.new_zeros(1))
        self.first = nn.Linear(width, width // r, **how) if first else None
        self.down = nn.Linear(width, width // r, **how)
        self.block = narrowed(block, r)

    def forward(self, x: Tensor, below: Tensor) -> Tensor:
        """What leaves the frozen block (B, N, D) and what leaves the rung below (B, N, D/r), of the first what enters
        the frozen block (B, N, D) → (B, N, D/r)."""
        # No name holds what lies between. (Without a class token what goes through the blocks lies channel by channel.)
        return cast(Tensor, self.block(mix(self._of(below), self.down(x.contiguous()), self.gate)))

    def _of(self, below: Tensor) -> Tensor:
        return below if self.first is None else self.first(below.contiguous())


class Top(nn.Module):
    """What leaves the last rung, pooled as ``model`` pools, for the head; zero at first."""

    def __init__(self, model: Any, width: int, r: int) -> None:
        super().__init__()
        like = next(model.parameters())
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.norm = nn.LayerNorm(width // r, eps=1e-6, **how)
        self.up = nn.Linear(width // r, width, **how)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self._prefix = None if model.global_pool == "token" else int(model.num_prefix_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D/r) → (B, D)."""
        return cast(Tensor, self.up(self.norm(self._pooled(x))))

    def _pooled(self, x: Tensor) -> Tensor:
        return x[:, 0] if self._prefix is None else x[:, self._prefix :].mean(dim=1)


class _Climbing:
    """Hooks that go up the ladder with the blocks."""

    def __init__(self) -> None:
        self._left: list[Tensor] = []

    def beside(self, block: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Forward hook of a block."""
        rung = cast(Rung, block.get_submodule(LADDER))
        if rung.first is not None:
            self._left.clear()  # of a pass that was broken off
        self._left.append(rung(out, inputs[0] if rung.first is not None else self._left.pop()))

    def join(self, module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        """Forward hook of the module before the head."""
        return cast(Tensor, out + module.get_submodule(LADDER)(self._left.pop()))


def add_ladder(model: nn.Module, r: int) -> None:
    """Let small blocks, r times narrower, stand beside the blocks of a timm vision transformer, in place."""
    climbing, width = _Climbing(), cast(Any, model).embed_dim
    for number, block in enumerate(blocks_of(model)):
        block.add_module(LADDER, Rung(width, r, block, first=number == 0))
        block.register_forward_hook(climbing.beside)
    join = model.get_submodule(BEFORE_HEAD)
    join.add_module(LADDER, Top(model, width, r))
    join.register_forward_hook(climbing.join)
