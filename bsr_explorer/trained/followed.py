"""What a model does with the patches of a few validation images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.data.loader import loader
from bsr_explorer.data.splits import Splits, stratified_order
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build_with
from bsr_explorer.finetune.job import Job, load_images
from bsr_explorer.methods.base import TOKENS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.models.base import Followed
from bsr_explorer.prediction import tape_of
from bsr_explorer.store.experiment import Experiment
from bsr_explorer.train.loop import evaluate
from bsr_explorer.train.step import image_dtype, in_precision
from bsr_explorer.trained import weights

MOST = 12
"""Images that are drawn at most."""


@dataclass(frozen=True)
class Strip:
    """A few images, and where their patches are.

    Attributes:
        config: of the model.
        images: (n, S, S, 3), in 0 to 1.
        classes: the name of each one's class.
        followed: after each block that drops or merges tokens.
        control: the same where tokens are dropped by chance, or nothing.
        accuracies: of the trained model on all validation images, in [0, 1]: as it is, and with all tokens; if asked.
    """

    config: Config
    images: NDArray[np.float64]
    classes: tuple[str, ...]
    followed: list[Followed]
    control: list[Followed]
    accuracies: tuple[float, float] | None = None


def check(config: Config, images: int, control: bool) -> None:
    """Refuse what cannot be drawn, before weights and data are loaded.

    Raises:
        UserError: a method that leaves all tokens alone, none to be dropped by chance, or a number out of range.
    """
    if not 1 <= images <= MOST:
        raise UserError(f"--images: {images} is out of range; choose from 1 to {MOST}")
    kinds = {op.kind for op in tape_of(config).ops}
    for part in parts_of(config.how):
        if TOKENS in part.chooses and (part.moves or not getattr(part, "inference", True)):
            others = ", in each step others" if part.moves else " (inference=False)"
            raise UserError(
                f"--method: {config.method} drops tokens in training alone{others}; a trained model keeps all, so that "
                "there is nothing to draw"
            )
    if not kinds & {"drop_tokens", "merge_tokens"}:
        raise UserError(
            f"--method: {config.method} drops and merges no tokens at {config.image_size} px, so that there is nothing "
            "to draw; take one that does, such as bsr, drop, evit or tome"
        )
    if control and "drop_tokens" not in kinds:
        raise UserError(
            f"--control: {config.method} drops no tokens that could be dropped by chance; leave it out"
        )


def strip_of(
    experiment: Experiment,
    folder: Path | None,
    data_dir: Path,
    images: int,
    control: bool,
    accuracy: bool = False,
) -> Strip:
    """Follow the patches of a few validation images, of different classes as far as there are.

    Args:
        experiment: the model, the data, the pretrained weights, and the seed by which images are drawn.
        folder: of a training of it, whose weights are taken instead.
        accuracy: whether validation is evaluated, with drops and with all tokens.

    Raises:
        UserError: see ``check``; weights or data that are not to be had.
    """
    actual = experiment.fidelity.at(experiment.config)
    check(actual, images, control)
    job = Job(experiment.data, experiment.fidelity, experiment.weights, experiment.seed, data_dir)
    if folder is None:
        model, used = build_with(actual, job.weights, job.seed)
        in_precision(model, actual.precision)
        job = replace(job, weights=used.source)
    else:
        model = weights.load(folder)
    splits = load_images(experiment.config, job)
    strip = _followed(model, actual, splits, images, experiment.seed, control)
    if not accuracy:
        return strip
    config = experiment.config
    batches = loader(splits.validation, config.micro_batch_size, shuffle=False, seed=0, drop_last=False)
    as_it_is = evaluate(model, batches, config.precision)
    with architecture_of_model(model).all_tokens(model):
        return replace(strip, accuracies=(as_it_is, evaluate(model, batches, config.precision)))


def _followed(
    model: nn.Module, config: Config, splits: Splits, count: int, seed: int, control: bool
) -> Strip:
    part, architecture = splits.validation, architecture_of_model(model)
    chosen = [int(item) for item in stratified_order(part.labels, seed)[:count]]
    shown = torch.stack([image for image, _ in part.few(chosen)])
    batch = shown.to(image_dtype(config.precision))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in splits.mean_std)
    pixels = (shown * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
    return Strip(
        config,
        pixels.double().numpy(),
        tuple(splits.classes[int(part.labels[item])] for item in chosen),
        architecture.follow_tokens(model, batch),
        architecture.follow_tokens(model, batch, at_random=True) if control else [],
    )
