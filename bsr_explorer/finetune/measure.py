"""A configuration measured: the ledger of real training steps on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build, device_of, make_step
from bsr_explorer.finetune.phases import Phases, settle
from bsr_explorer.ledger import Ledger, in_phases
from bsr_explorer.measurement import flops
from bsr_explorer.measurement.step import NOTHING, Before, Measurement, measure_step, one_that_updates
from bsr_explorer.methods.moving import InStep
from bsr_explorer.methods.steps import EVERYTHING
from bsr_explorer.models.architecture import architecture_of
from bsr_explorer.models.inputs import inputs_of
from bsr_explorer.prediction import geometry_of, predict, steps_of
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision


def measure(config: Config) -> Ledger:
    """The ledger of real training steps on this machine, with random weights and images."""
    return measure_in_full(config).ledger


def measure_in_full(config: Config) -> Measurement:
    """``measure``, with the operations that no FLOP counter knows."""
    return whole_of(config, measure_steps(config))


def measure_steps(config: Config) -> dict[Config, Measurement]:
    """The kinds of step that a training of a configuration goes through, each measured: the fullest first, which is
    the only one where all are alike."""
    steps = steps_of(config)
    fullest = max(steps.fullest, key=lambda one: predict(one).peak_bytes)
    return {one: _alone(one) for one in dict.fromkeys((fullest, *(one for _, one in steps.expected)))}


def whole_of(config: Config, measured: Mapping[Config, Measurement]) -> Measurement:
    """The ledger of a training: bytes of the fullest step, and the mean of all steps' FLOPs.

    Args:
        measured: as ``measure_steps`` gives it.
    """
    steps, fullest = steps_of(config), next(iter(measured.values()))
    if steps.alike:
        return fullest
    ledgers = [replace(measured[one].ledger, peak_bytes=0) for _, one in steps.expected]
    whole = in_phases([fullest.ledger, *ledgers], [0.0, *(share for share, _ in steps.expected)])
    uncounted = dict.fromkeys(name for part in measured.values() for name in part.uncounted)
    return Measurement(whole, tuple(uncounted))


def _alone(config: Config) -> Measurement:
    """Measure a configuration whose steps are all alike."""
    before = Before.here() if device_of(config).type == "cuda" else NOTHING
    return measure_step(*parts_of_a_step(config), before)


def parts_of_a_step(config: Config) -> tuple[Step, torch.Tensor, torch.Tensor]:
    """A training step with random weights; images and labels for it, on its device."""
    device = device_of(config)
    how = config.how
    model = build(config.with_method(how.of) if isinstance(how, InStep) else config)
    model = in_precision(model, config.precision).to(device)
    images, labels = batch_of(config, model, torch.Generator().manual_seed(0))
    step = make_step(model, config, _plain(config))
    if isinstance(how, InStep):
        _turn(step, how, images, labels)
    elif how.moves:
        step.changes = Phases(config, _plain(config))
    return step, images, labels


def batch_of(
    config: Config, model: torch.nn.Module, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random values, and labels, as a step of a configuration's model takes them, on its device."""
    takes, classes = inputs_of(model, architecture_of(config.model).takes), geometry_of(config).num_classes
    given, labels = takes.drawn(config.batch_size, config.image_size, classes, random)
    device = device_of(config)
    dtype = given.dtype if takes.numbered else image_dtype(config.precision)
    return given.to(device, dtype), labels.to(device)


def _turn(step: Step, how: InStep, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Let a step be one of a training in which all has trained before that may."""
    if not how.of.forgets:
        how.of.turn(step.model, EVERYTHING)
        one_that_updates(step, images, labels)
    how.of.turn(step.model, how.shape)
    settle(step, how.of.forgets)


def _plain(config: Config) -> Recipe:
    """A recipe that adds nothing to what the configuration says; as in others, AdamW decays weights."""
    decay = 0.05 if config.optimizer.startswith("adamw") else 0.0
    return Recipe("measure", "", config.optimizer, lr=1e-4, weight_decay=decay, epochs=1, batch_size=1)


def second_opinion(config: Config) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward FLOPs of a step, and the operations that it does not see."""
    takes = architecture_of(config.model).takes
    given, _ = takes.empty(config.batch_size, config.image_size, torch.float32).values()
    return flops.second_opinion(build(config).eval(), torch.zeros_like(given))
