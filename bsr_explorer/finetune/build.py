"""A model, its device and its training step, as a configuration says."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from bsr_explorer.config import CHOICES, Config
from bsr_explorer.devices.gpus import name_of
from bsr_explorer.errors import UserError
from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.models.loading import WeightsUsed
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.tasks import give_tasks
from bsr_explorer.models.weights import create_model
from bsr_explorer.prediction import geometry_of
from bsr_explorer.train.optimizer import make_optimizer
from bsr_explorer.train.recipes import Recipe
from bsr_explorer.train.step import Step


def build(config: Config, pretrained: bool = False, weights: str | None = None, seed: int = 0) -> nn.Module:
    """A model ready to train: method applied, ``requires_grad`` set.

    Args:
        pretrained: shorthand for ``weights="auto"``; otherwise weights are random.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        seed: of the random weights (those of the head always are), and of what a method adds.

    Raises:
        UserError: model, method and weights do not go together.
    """
    return build_with(config, weights or ("auto" if pretrained else "random"), seed)[0]


def build_with(
    config: Config, weights: str, seed: int, rules: Recipe | None = None
) -> tuple[nn.Module, WeightsUsed]:
    geometry_of(config)  # refuses what is not understood before anything is built
    model, used = create_model(
        timm_name(config.model),
        image_size=config.image_size,
        num_classes=config.num_classes,
        weights=weights,
        seed=seed,
        tag=rules.tag if rules else None,
        head_std=rules.head_std if rules else None,
    )
    architecture_of_model(model).use_attention_path(model, config.attention)
    with torch.random.fork_rng(devices=[]):  # what a method adds follows from the seed, too
        torch.default_generator.manual_seed(seed)
        model = config.how.apply(model)
    give_tasks(model, config.tasks)
    return model, used


def pick_device(device: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in CHOICES["device"]:
        raise UserError(f"--device: unknown device {device!r}; choose auto, {' or '.join(CHOICES['device'])}")
    return device


def is_here(config: Config) -> bool:
    """Whether the device that a configuration's steps run on is here."""
    return config.device != "cuda" or torch.cuda.is_available()


def card_here() -> str | None:
    """The card that ``cuda`` is here, as ``--gpu`` takes it; None where there is none."""
    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(0)
    return name_of(card.name, (card.major, card.minor), card.multi_processor_count)


def as_run(config: Config) -> Config:
    """The same on the card that is here: a budget may be of another one, and what a run holds is of this."""
    return replace(config, gpu=card_here() or config.gpu) if config.device == "cuda" else config


def device_of(config: Config) -> torch.device:
    """The device that a configuration's steps run on.

    Raises:
        UserError: it is not here.
    """
    if not is_here(config):
        raise UserError("--device: no CUDA device is available here; choose cpu or auto")
    return torch.device(config.device)


def make_step(model: nn.Module, config: Config, rules: Recipe, kind: type[Step] = Step) -> Step:
    """The training step of a configuration: its optimiser, precision and micro-batches, a recipe's rates."""
    optimizer = make_optimizer(model, rules, config.batch_size, config.optimizer, config.implementation)
    return kind(
        model,
        optimizer,
        precision=config.precision,
        micro_batches=config.micro_batches,
        set_to_none=config.set_to_none,
        clip=rules.clip,
        label_smoothing=rules.label_smoothing,
    )
