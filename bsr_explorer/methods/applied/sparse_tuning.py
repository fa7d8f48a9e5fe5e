"""Adapters beside the MLPs of a model, and sums of what they make that go on beside its tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import nn

from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.sparse_tuning import DENSE, DENSE_ADAPTER
from bsr_explorer.naming import blocks_of


class Sum(nn.Module):
    """The sum of two tensors."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """(…) → (…)."""
        return one + other


class Mix(nn.Module):
    """a (…, w/2) → of_down(a) + of_up(up(a)), (…, w), where ``up`` starts at zero.

    Args:
        how: device and number format of its parameters.
    """

    def __init__(self, width: int, how: dict[str, Any]) -> None:
        super().__init__()
        self.of_down = _linear(width // 2, width, how)
        self.up = _linear(width // 2, width, how, zero=True)
        self.of_up = nn.Linear(width, width, bias=False, **how)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """See above."""
        return cast(torch.Tensor, self.of_down(a) + self.of_up(self.up(a)))


class Inner(nn.Module):
    """h (…, w) → h + mix(down(h)), of a bottleneck in the bottleneck."""

    def __init__(self, width: int, how: dict[str, Any]) -> None:
        super().__init__()
        self.down = _linear(width, width // 2, how)
        self.mix = Mix(width, how)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """See above."""
        return cast(torch.Tensor, h + self.mix(self.down(h)))


def _linear(width: int, out: int, how: dict[str, Any], zero: bool = False) -> nn.Linear:
    made = nn.Linear(width, out, **how)
    nn.init.zeros_(made.bias)
    if zero:
        nn.init.zeros_(made.weight)
    return made


class Group:
    """What blocks in a row hand on beside the tokens.

    Attributes:
        made: by the adapter of the block that runs.
        now: by those below it, in sum.
        entered: whether a block was called. (One that runs again is not, and hands nothing on.)
    """

    made: torch.Tensor | None = None
    now: torch.Tensor | None = None
    entered: bool = False

    def enter(self, block: nn.Module, inputs: Any) -> None:
        """Pre-hook of a block."""
        self.entered = True

    def leave(self, block: nn.Module, inputs: Any, out: torch.Tensor) -> None:
        """Hook of a block that is not the last."""
        self.entered = False
        (made, self.made), before = (self.made, None), self.now
        self.now = made if before is None else cast(Any, block).dense(before, made)

    def leave_last(self, block: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        """Hook of the last."""
        self.leave(block, inputs, out)
        made, self.now = self.now, None
        assert made is not None
        return out + made


class DenseAdapter(nn.Module):
    """x (…, width) → up(inner(ReLU(down(x)))), which begins at zero.

    Args:
        like: a tensor of the device and number format that its parameters have.
    """

    def __init__(self, width: int, bottleneck: int, out: int, like: torch.Tensor, group: Group) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.down, self.act = _linear(width, bottleneck, how), nn.ReLU()
        self.inner, self.up = Inner(bottleneck, how), _linear(bottleneck, out, how, zero=True)
        self._group = group
        self._seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, width) → (…, out)."""
        # A linear layer would copy what does not lie row by row in its own ways.
        return cast(torch.Tensor, self.up(self.inner(self.act(self.down(x.contiguous())))))

    def see(self, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Pre-hook of the norm before the MLP, whose input it reads."""
        self._seen.append(inputs[0])

    def beside(self, layer: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        """Hook of the MLP's last layer: what this makes is added to what that makes."""
        made = self(self._seen.pop())
        if self._group.entered:
            self._group.made = made
        return cast(torch.Tensor, out + made)


def add_dense_adapters(model: nn.Module, bottleneck: int, lasts: Collection[int]) -> None:
    """Add an adapter to each block, in place, and connect them.

    Args:
        lasts: the blocks (0-based) up to each of which those behind the one before are connected.
    """
    group, first = Group(), True
    for place, module in enumerate(blocks_of(model)):
        block: Any = module
        layer: Any = block.get_submodule(LAYERS["fc2"])
        width = block.get_submodule(LAYERS["fc1"]).get_parameter("weight").shape[1]
        adapter = DenseAdapter(width, bottleneck, layer.out_features, layer.weight, group)
        layer.add_module(DENSE_ADAPTER, adapter)
        if not first:
            block.add_module(DENSE, Sum())
        block.norm2.register_forward_pre_hook(adapter.see)
        layer.register_forward_hook(adapter.beside)
        block.register_forward_pre_hook(group.enter)
        first = place in lasts
        block.register_forward_hook(group.leave_last if first else group.leave)
        group = Group() if first else group
