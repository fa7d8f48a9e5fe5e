"""A step on a GPU, recorded as its allocator saw it, in a process of its own."""

from __future__ import annotations

import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import parts_of_a_step
from bsr_explorer.measurement.history import changes_during
from bsr_explorer.store.provenance import provenance
from bsr_explorer.trace import LEAST, UNIT, Trace

STEPS = 4
"""Steps before the one that is recorded."""


def trace(config: Config) -> Trace:
    """Record the fifth step of a configuration. Nothing else may have used the GPU in this process.

    Raises:
        UserError: no GPU is here, the configuration is for another device, or this process has used the GPU.
    """
    if config.device != "cuda" or not torch.cuda.is_available():
        raise UserError(
            "--device: a step is recorded on cuda, and none is available here; --read compares a file"
        )
    if torch.cuda.max_memory_reserved():
        raise UserError("trace: this process has used the GPU already; start a fresh one")
    step, images, labels = parts_of_a_step(config)
    before_first = torch.cuda.memory_allocated()
    for _ in range(STEPS):
        step(images, labels)
    torch.cuda.synchronize()
    before_step = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made = changes_during(lambda: step(images, labels))
    pieces = (change // abs(change) * -(-abs(change) // UNIT) for change in made if change)
    return Trace(
        config=config.to_dict(),
        peak=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        before_first=before_first,
        before_step=before_step,
        events=tuple(piece for piece in pieces if abs(piece) * UNIT > LEAST),
        provenance=provenance("cuda"),
    )
