"""A configuration measured: the ledger of real training steps on this machine."""

from __future__ import annotations

import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.phases import Phases
from bsr_explorer.ledger import Ledger, in_phases
from bsr_explorer.measurement import flops
from bsr_explorer.measurement.step import NOTHING, Before, Measurement, measure_step
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision


def measure(config: Config) -> Ledger:
    """The ledger of real training steps on this machine, with random weights and images."""
    return measure_in_full(config).ledger


def measure_in_full(config: Config) -> Measurement:
    """``measure``, with the operations that no FLOP counter knows."""
    phases = config.how.phases()
    if len(phases) > 1:
        parts = [measure_in_full(config.with_method(phase.method)) for phase in phases]
        whole = in_phases([part.ledger for part in parts], [phase.share for phase in phases])
        uncounted = dict.fromkeys(name for part in parts for name in part.uncounted)
        return Measurement(whole, tuple(uncounted))
    before = Before.here() if device_of(config).type == "cuda" else NOTHING
    return measure_step(*parts_of_a_step(config), before)


def parts_of_a_step(config: Config) -> tuple[Step, torch.Tensor, torch.Tensor]:
    """A training step with random weights; images and labels for it, on its device."""
    device = device_of(config)
    model = in_precision(build(config), config.precision).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape, generator=generator).to(device, image_dtype(config.precision))
    labels = torch.randint(config.num_classes, (config.batch_size,), generator=generator).to(device)
    step = make_step(model, config, _plain(config))
    if config.how.moves:
        step.changes = Phases(config, _plain(config))
    return step, images, labels


def _plain(config: Config) -> Recipe:
    """A recipe that adds nothing to what the configuration says; as in others, AdamW decays weights."""
    decay = 0.05 if config.optimizer.startswith("adamw") else 0.0
    return Recipe("measure", "", config.optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=1)


def second_opinion(config: Config) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward FLOPs of a step, and the operations that it does not see."""
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    return flops.second_opinion(build(config).eval(), torch.zeros(shape))
