"""The trace of a built model, of which that for every batch size follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bsr_explorer.errors import UserError
from bsr_explorer.models.inputs import IMAGES, Inputs, inputs_of
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.models.traced.calls import Differs, Trace, joined
from bsr_explorer.models.traced.kernels import Kernels
from bsr_explorer.models.traced.running import trace
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.units import TORCH

SMALL, LARGE = 2, 3
"""Batch sizes of the two traces of which those for all others follow. (One image would let torch leave out axes.)"""


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


def follow(
    model: nn.Module, image_size: int, attention: str, precision: str, device: str, takes: Inputs = IMAGES
) -> Followed:
    """Trace a model.

    Args:
        model: as it is trained; its numbers do not matter.
        image_size: of what it takes.
        attention: see ``Architecture.use_attention_path``.
        precision: key of ``PRECISIONS``.
        device: on which it would run, and its card (``devices.device_of``).

    Raises:
        UserError: something of it cannot be followed, by name.
    """
    dtype, autocast = PRECISIONS[precision]
    if autocast and device != "cpu":
        raise UserError(
            f"--precision: torch leaves autocast off where there is no GPU, so a traced model has no prediction of "
            f"{precision} for {device}; choose fp32 or bf16, or --device cpu"
        )
    number: torch.dtype = getattr(torch, TORCH[dtype])
    use_attention_path(model, attention)
    if not autocast:
        model = model.to(number)
    image_dtype = torch.float32 if autocast else number

    kernels = None if device == "cpu" else Kernels(device, attention)

    def of(batch: int) -> Trace:
        inputs = inputs_of(model, takes).empty(batch, image_size, image_dtype)
        return trace(model.train(), inputs, number if autocast else None, kernels)

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
