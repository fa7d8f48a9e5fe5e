"""What a fine-tune needs beside its configuration: data, weights, fidelity, seed, files."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from bsr_explorer.config import HELD_OUT, Config, Fidelity
from bsr_explorer.data.loader import loader
from bsr_explorer.data.places import check_kind, default_data_dir
from bsr_explorer.data.splits import Splits, load_splits
from bsr_explorer.data.text import BYTES, Texts, load_texts
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import device_of
from bsr_explorer.models.architecture import architecture_of, quality_of
from bsr_explorer.models.hub import pretrained_cfg
from bsr_explorer.models.inputs import TOKENS
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.tasks import give_tasks
from bsr_explorer.models.weights import create_model
from bsr_explorer.prediction import geometry_of
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.train.checkpoint import Checkpoint
from bsr_explorer.train.loop import scores
from bsr_explorer.train.recipes import IMAGENET, MeanStd, Recipe, recipe


@dataclass(frozen=True)
class Job:
    """What a fine-tune needs beside its configuration.

    Attributes:
        data: name of a dataset, path of an image folder, or ``hub:OWNER/NAME``; of a language model: see
            ``data.text``.
        data_dir: where datasets lie, or are put.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        every_epoch: whether validation is evaluated after each epoch, and not at the end alone. (The authors' protocol
            is evaluated as often as the recipe says.)
        test: whether the test set is evaluated too, once, at the end. A search never does. (The authors' protocol looks
            at nothing else.)
        rungs: the least score in [0, 1] with which training goes on after so many epochs, whereupon
            validation is evaluated whatever the value (``-inf``: only look; ``inf``: go no further).
        checkpoint: a file that is written after each epoch but the last, and stays. If there is one, of the same
            configuration, seed, data and fidelity, training goes on from it, as if it had never been interrupted.
        checkpoint_every: seconds after which it is written within an epoch too.
        cache: where the outputs of blocks below what trains are kept and found, to be made once; None: nowhere.
            The accuracy is the same.
    """

    data: str = "digits"
    fidelity: Fidelity = field(default_factory=Fidelity)
    weights: str = "auto"
    seed: int = 0
    data_dir: Path | None = None
    test: bool = False
    every_epoch: bool = False
    rungs: Mapping[int, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_every: float = math.inf
    cache: Cache | None = None


def load_data(config: Config, job: Job) -> Splits | Texts:
    """The splits that a job trains and validates on: of images or, for a language model, of text.

    Raises:
        UserError: data that is not there, that the model does not take, or that has another number of classes.
    """
    takes = architecture_of(config.model).takes
    check_kind(job.data, config.model, takes is TOKENS)
    return load_text(config, job) if takes is TOKENS else load_images(config, job)


def load_text(config: Config, job: Job) -> Texts:
    """The same of a language model.

    Raises:
        UserError: as ``load_data``, a vocabulary that has no room for bytes, or a protocol or views, which are of
            images.
    """
    vocabulary = geometry_of(config).num_classes
    if vocabulary < BYTES:
        raise UserError(
            f"--model: {config.model} has a vocabulary of {vocabulary}, and text is of {BYTES} bytes; choose one "
            f"of at least {BYTES}"
        )
    fidelity = job.fidelity
    if fidelity.protocol != HELD_OUT.name:
        raise UserError(f"--protocol: {fidelity.protocol} is of images; of text, choose {HELD_OUT.name}")
    return load_texts(
        job.data,
        length=fidelity.at(config).image_size,
        train_size=fidelity.train_size,
        val_size=fidelity.val_size,
    )


def load_images(config: Config, job: Job) -> Splits:
    """The same of a model of images.

    Raises:
        UserError: as ``load_data``.
    """
    rules = recipe(job.fidelity.recipe, job.data, config.optimizer)
    mean, std = rules.mean_std or _pretrained_mean_std(config, job.weights)
    splits = load_splits(
        job.data,
        image_size=job.fidelity.at(config).image_size,
        data_dir=job.data_dir or default_data_dir(),
        mean=mean,
        std=std,
        augment=rules.augment,
        crop_scale=rules.crop_scale,
        train_size=job.fidelity.train_size,
        val_size=job.fidelity.val_size,
        interpolation=rules.interpolation,
        squash=rules.squash,
        views=job.fidelity.views,
        skip=job.fidelity.skip or (),
        hold_out=job.fidelity.protocol == HELD_OUT.name,
    )
    if splits.num_classes != config.num_classes:
        raise UserError(
            f"--num-classes: the configuration has {config.num_classes} classes and {job.data} has "
            f"{splits.num_classes}"
        )
    if tuple(splits.tasks.values()) != config.tasks:
        raise UserError(
            f"--tasks: the configuration has {_said(config.tasks)} and {job.data} has {_said(splits.tasks.values())}; "
            f"set [config] tasks = {list(splits.tasks.values())}, or give other data"
        )
    return splits


def _said(tasks: Collection[int]) -> str:
    return f"tasks of {', '.join(map(str, tasks))} classes" if tasks else "one task"


def try_out(config: Config, job: Job) -> Job:
    """Load weights and data once, before anything is trained or written: what is wrong with them is found here.

    Returns:
        The job, with the weights that ``auto`` is.

    Raises:
        UserError: weights or data that are not there, or do not go with the configuration.
    """
    rules = recipe(job.fidelity.recipe, job.data)
    _, used = create_model(
        timm_name(config.model),
        image_size=job.fidelity.at(config).image_size,
        num_classes=config.num_classes,
        weights=job.weights,
        seed=job.seed,
        tag=rules.tag,
    )
    job = replace(job, weights=used.source if job.weights == "auto" else job.weights)
    load_data(config, job)
    return job


def _pretrained_mean_std(config: Config, weights: str) -> MeanStd:
    """The normalisation that the weights were pretrained with: timm says it of its own, and the offline
    weights are DINOv2's, which took ImageNet's."""
    if weights == "offline":
        return IMAGENET
    own = pretrained_cfg(timm_name(config.model))
    return (tuple(own.mean), tuple(own.std)) if own is not None else IMAGENET


def score_on_test(model: nn.Module, config: Config, job: Job) -> tuple[float, dict[str, float]]:
    """The score in [0, 1] on a job's test set, of a model that was trained as the job says; and of several tasks that
    of each, by its name.

    Raises:
        UserError: see ``load_data``.
    """
    splits = load_data(config, job)
    batches = loader(splits.test, config.micro_batch_size, shuffle=False, seed=0, drop_last=False, raw=True)
    model = model.to(device_of(config))
    give_tasks(model, config.tasks)
    found = scores(model, batches, config.precision, quality_of(config.model))
    return fmean(found), by_name(splits, found)


def by_name(splits: Splits | Texts, found: Sequence[float]) -> dict[str, float]:
    """The scores of several tasks, in their order, by name; nothing, if there is one task."""
    return dict(zip(splits.tasks, found, strict=True)) if isinstance(splits, Splits) and splits.tasks else {}


def rules_of(config: Config, job: Job) -> Recipe:
    """The job's recipe, with the configuration's learning rate if it has one."""
    rules = recipe(job.fidelity.recipe, job.data, config.optimizer)
    return rules if config.lr is None else replace(rules, lr=config.lr, lr_batch=None)


def checkpoint_of(job: Job, about: dict[str, Any], rules: Recipe) -> Checkpoint | None:
    """Of everything that training follows from; an equal experiment may have been written otherwise."""
    if job.checkpoint is None:
        return None
    of = {key: value for key, value in about.items() if key != "config"}
    of |= {"recipe": asdict(rules), "torch": torch.__version__}
    return Checkpoint(job.checkpoint, json.dumps(of, sort_keys=True), job.checkpoint_every)


def epochs_of(rules: Recipe, images: int, batch_size: int) -> int:
    """The recipe's epochs, or as many as its steps take."""
    if rules.steps is None:
        return rules.epochs
    return -(-rules.steps // rules.steps_an_epoch(images, batch_size))
