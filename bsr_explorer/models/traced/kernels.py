"""What a GPU runs where torch, without one, would run something else.

Tensors without memory have a device, and torch's own rules then choose what is called, what it makes and what autograd
keeps: a trace needs no GPU. Some choices ask the card, or the libraries on it. Attention is called by the kernel that
the device's record names (``devices.cuda``). What cuDNN chooses, and keeps memory for, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.devices import device_of
from bsr_explorer.errors import UserError
from bsr_explorer.models.traced.calls import Call
from bsr_explorer.operations.call import Facts
from bsr_explorer.units import TORCH, WIDTH

CUDNN = (
    "batch_norm",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "ctc_loss",
    "grid_sampler",
    "affine_grid_generator",
)
"""Calls that cuDNN runs on a GPU, of whose own memory torch's kernels without memory say nothing."""

_WIDEST, _MULTIPLE = 128, 8
"""Of a head, the channels that each kernel takes as they are."""


@dataclass(frozen=True)
class Kernels:
    """What is called on a device that need not be here.

    Attributes:
        place: the device and its card (``devices.device_of``).
        attention: the path that is asked for (``Device.path``).
    """

    place: str
    attention: str = "fused"

    def of(self, function: Callable[..., Any], name: str, where: str) -> Callable[..., Any]:
        """What is called in place of a function of torch.

        Args:
            name: of the function.
            where: path of the module that calls.

        Raises:
            UserError: nobody without a GPU knows what that is.
        """
        if name in CUDNN:
            raise UserError(
                f"--device, --gpu: {where or 'the model'} calls {name}, which cuDNN runs on a GPU: what it keeps is "
                "not known without one; choose --device cpu, or another model"
            )
        if function is F.scaled_dot_product_attention:
            return Attention(self.place, self.attention, where)
        return function


class Attention:
    """``F.scaled_dot_product_attention`` by the kernel that a device picks.

    Attributes:
        key: what is called, whoever calls it.
        on_cpu: what the CPU calls instead.
    """

    on_cpu = staticmethod(F.scaled_dot_product_attention)
    __name__ = "scaled_dot_product_attention"

    def __init__(self, place: str, path: str, where: str) -> None:
        self.key = (self.__name__, place, path)
        self._device, self._path, self._where = device_of(place), path, where

    def path(self, query: torch.dtype) -> str:
        """The kernel that runs, by the number format of queries."""
        return self._device.path(self._path, _NAMES[query])

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        width = query.shape[-1]
        alike = query.dim() == 4 and query.shape == key.shape == value.shape
        whole = alike and width <= _WIDEST and width % _MULTIPLE == 0
        if attn_mask is not None or dropout_p or enable_gqa or not whole:
            raise UserError(
                f"--device, --gpu: {self._where or 'the model'} calls attention with a mask, dropout, or heads of "
                f"{width} channels, for which a GPU chooses a kernel by rules that are not followed; choose --device "
                "cpu, or --attention math"
            )
        return _KERNELS[self.path(query.dtype)](query, key, value, is_causal, scale)


_NAMES = {getattr(torch, theirs): ours for ours, theirs in TORCH.items()}


def _efficient(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    made = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, _trains(q, k, v), 0.0, causal, scale=scale
    )
    out: Tensor = made[0]
    return out


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    made = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    out: Tensor = made[0]
    return out


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    made = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, _trains(q, k, v), 0.0, causal, False, scale=scale
    )
    out: Tensor = made[0]
    return out


def _trains(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


_KERNELS: Mapping[str, Callable[[Tensor, Tensor, Tensor, bool, float | None], Tensor]] = {
    "efficient": _efficient,
    "flash": _flash,
    "cudnn": _cudnn,
}


# --- what is seen of calls --------------------------------------------------------------------------------


def on_cpu(call: Call) -> Call:
    """The call that a CPU makes instead, whose backward computes as much."""
    function: Callable[..., Any] = getattr(call.function, "on_cpu", call.function)
    return replace(call, function=function)


def with_backward(seen: Facts, call: Call, there: Facts) -> Facts:
    """What was seen of a call's forward pass on a device, with the FLOPs of its backward pass on a CPU.

    The memory-efficient kernel keeps two numbers for dropout in the host's memory, which is not the device's.

    Args:
        there: of ``on_cpu``.
    """
    kept, function = seen.kept, call.function
    if isinstance(function, Attention) and function.path(call.given[0].spec.dtype) == "efficient":
        kept = tuple(held for held in kept if held.what != "own" or held.bytes != WIDTH["int64"])
    return replace(seen, kept=kept, backward=there.backward, lacks=there.lacks)
