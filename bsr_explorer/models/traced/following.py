"""Traces of models by name, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bsr_explorer.errors import UserError
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.traced.calls import Differs, Trace, joined
from bsr_explorer.models.traced.running import trace
from bsr_explorer.models.vit.attention_path import use_attention_path

SMALL, LARGE = 2, 3
"""Batch sizes of the two traces of which those for all others follow. (One image would let torch leave out axes.)"""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Followed:
    """A model that was traced.

    Attributes:
        trace: for all batch sizes.
        parameters, buffers: without memory.
    """

    trace: Trace
    parameters: tuple[tuple[str, torch.Tensor], ...]
    buffers: tuple[tuple[str, torch.Tensor], ...]


def follow(model: nn.Module, image_size: int, attention: str, precision: str, device: str) -> Followed:
    """Trace a model.

    Args:
        model: as it is trained; its numbers do not matter.
        image_size: of the images that it takes, (B, 3, S, S).
        attention: see ``Architecture.use_attention_path``.
        precision: key of ``PRECISIONS``.

    Raises:
        UserError: something of it cannot be followed, by name.
    """
    dtype, autocast = PRECISIONS[precision]
    use_attention_path(model, attention)
    if not autocast:
        model = model.to(_DTYPES[dtype])
    image_dtype = torch.float32 if autocast else _DTYPES[dtype]

    def of(batch: int) -> Trace:
        images = torch.empty(batch, 3, image_size, image_size, dtype=image_dtype)
        labels = torch.empty(batch, dtype=torch.int64)
        inputs = {"images": images, "labels": labels}
        return trace(model.train(), inputs, _DTYPES[dtype] if autocast else None)

    try:
        made = joined(of(SMALL), SMALL, of(LARGE), LARGE)
    except Differs as differs:
        raise UserError(
            f"--model: what it calls depends on the number of images: {differs}; such models are not predicted"
        ) from None
    return Followed(
        made,
        tuple((name, _without_memory(p)) for name, p in model.named_parameters()),
        tuple((name, _without_memory(b)) for name, b in model.named_buffers()),
    )


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


class Unfilled(TorchFunctionMode):
    """Leaves parameters as memory gives them: filling them with random numbers is most of what building takes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _FILLING and isinstance(filled, nn.Parameter):
            return filled
        return func(*args, **kwargs)


_FILLING = {
    *("uniform_", "normal_", "trunc_normal_", "constant_", "zeros_", "ones_", "zero_", "fill_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "orthogonal_"),
    *("mul_", "add_", "clamp_", "erfinv_"),
}
