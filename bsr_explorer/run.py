"""Running a configuration for real: build it, measure a step of it, fine-tune it into a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.measurement import flops
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.measurement.step import Measurement, measure_step
from bsr_explorer.methods.surgery import use_attention_path
from bsr_explorer.models.names import timm_name
from bsr_explorer.models.weights import WeightsUsed, create_model
from bsr_explorer.prediction import geometry_of, predict
from bsr_explorer.store.provenance import provenance
from bsr_explorer.store.records import Record
from bsr_explorer.train.data import Splits, load_splits, loader
from bsr_explorer.train.datasets import default_data_dir
from bsr_explorer.train.loop import evaluate, fit, make_optimizer
from bsr_explorer.train.recipes import IMAGENET, MeanStd, Recipe, recipe

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


def build(config: Config, pretrained: bool = False, weights: str | None = None, seed: int = 0) -> nn.Module:
    """A model ready to train: method applied, ``requires_grad`` set.

    Args:
        pretrained: shorthand for ``weights="auto"``; otherwise weights are random.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        seed: of the random weights (those of the head always are).

    Raises:
        UserError: model, method and weights do not go together.
    """
    return _build(config, weights or ("auto" if pretrained else "random"), seed)[0]


def _build(config: Config, weights: str, seed: int) -> tuple[nn.Module, WeightsUsed]:
    geometry_of(config)  # refuses what is not understood before anything is built
    model, used = create_model(
        timm_name(config.model),
        image_size=config.image_size,
        num_classes=config.num_classes,
        weights=weights,
        seed=seed,
    )
    use_attention_path(model, config.attention)
    return config.how.apply(model), used


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: a device that is not here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device: unknown device {device!r}; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: no CUDA device is available here; choose cpu or auto")
    return torch.device(device)


def measure(config: Config, device: str = "cpu") -> Ledger:
    """The ledger of real training steps on this machine, with random weights and images."""
    return measure_in_full(config, device).ledger


def measure_in_full(config: Config, device: str = "cpu") -> Measurement:
    """``measure``, with the operations that no FLOP counter knows."""
    where = pick_device(device)
    model = build(config).to(where)
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    images = torch.randn(shape, generator=generator).to(where)
    labels = torch.randint(config.num_classes, (config.batch_size,), generator=generator).to(where)
    rules = Recipe(
        "measure", "", config.optimizer, lr=1e-4, weight_decay=0.0, epochs=1, batch_size=config.batch_size
    )
    return measure_step(model, images, labels, make_optimizer(model, rules, config.batch_size))


def second_opinion(config: Config) -> tuple[int, dict[str, int]]:
    """fvcore's count of the forward FLOPs of a step, and the operations that it does not see."""
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    return flops.second_opinion(build(config).eval(), torch.zeros(shape))


@dataclass(frozen=True)
class Job:
    """What a fine-tune needs beside its configuration.

    Attributes:
        data: name of a dataset or path of an image folder.
        data_dir: where datasets lie, or are put.
        weights: ``auto``, ``hub``, ``offline``, ``random`` or a file.
        every_epoch: whether validation is evaluated after each epoch, and not at the end alone.
        test: whether the test set is evaluated too, once, at the end. A search never does.
    """

    data: str = "digits"
    fidelity: Fidelity = field(default_factory=Fidelity)
    weights: str = "auto"
    seed: int = 0
    device: str = "auto"
    data_dir: Path | None = None
    test: bool = False
    every_epoch: bool = False


def fine_tune(
    config: Config,
    data: str = "digits",
    fidelity: Fidelity | None = None,
    weights: str = "auto",
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    test: bool = False,
    every_epoch: bool = False,
    progress: Progress = lambda done, total, loss: None,
) -> Record:
    """Fine-tune a configuration and say everything about it in a record.

    See ``Job`` for the arguments. Divergence is a result (status ``diverged``), not an error.

    Raises:
        UserError: bad input, found before training starts.
    """
    job = Job(data, fidelity or Fidelity(), weights, seed, device, data_dir, test, every_epoch)
    return run(config, job, progress)


def load_data(config: Config, job: Job) -> Splits:
    """The splits that a job trains and validates on.

    Raises:
        UserError: data that is not there, or that has another number of classes.
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
    )
    if splits.num_classes != config.num_classes:
        raise UserError(
            f"--num-classes: the configuration has {config.num_classes} classes and {job.data} has "
            f"{splits.num_classes}"
        )
    return splits


def _pretrained_mean_std(config: Config, weights: str) -> MeanStd:
    """The normalisation that the weights were pretrained with: timm says it of its own, and the offline
    weights are DINOv2's, which took ImageNet's."""
    if weights == "offline":
        return IMAGENET
    own = timm.get_pretrained_cfg(timm_name(config.model), allow_unregistered=True)
    return (own.mean, own.std) if own is not None else IMAGENET


def run(config: Config, job: Job, progress: Progress = lambda done, total, loss: None) -> Record:
    """Fine-tune one configuration as the job says."""
    actual = job.fidelity.at(config)
    predicted = predict(config)
    rules = recipe(job.fidelity.recipe, job.data, config.optimizer)
    device = pick_device(job.device)
    model, used = _build(actual, job.weights, job.seed)
    model.to(device)
    splits = load_data(config, replace(job, weights=used.source))
    torch.manual_seed(job.seed)
    saved: list[tuple[int, int]] = []
    epochs = job.fidelity.epochs or _epochs(rules, len(splits.train), config.batch_size)
    outcome = fit(
        model,
        loader(
            splits.train, config.batch_size, shuffle=True, seed=job.seed, drop_last=_drop_last(splits, config)
        ),
        loader(splits.validation, 2 * config.batch_size, shuffle=False, seed=0, drop_last=False),
        rules,
        epochs,
        progress,
        first_step=lambda images, labels: saved.append(_saved_bytes(model, images, labels)),
        every_epoch=job.every_epoch,
    )
    test = None
    if job.test and outcome.diverged is None:
        test = evaluate(
            model, loader(splits.test, 2 * config.batch_size, shuffle=False, seed=0, drop_last=False)
        )
    return Record(
        status="diverged" if outcome.diverged else "finished",
        reason=outcome.diverged or "",
        config=config.to_dict(),
        key=config.key(len(model.blocks)),  # type: ignore[arg-type]
        fidelity=asdict(replace(job.fidelity, image_size=actual.image_size, epochs=epochs)),
        data=job.data,
        split=splits.description,
        weights=f"{used.source}: {used.detail}",
        seed=job.seed,
        predicted=predicted.summary(),
        measured=_measured(actual, *saved[0]) if saved else None,
        accuracy=outcome.accuracy[-1] if outcome.accuracy and not outcome.diverged else None,
        test_accuracy=test,
        history=outcome.accuracy,
        losses=outcome.losses,
        seconds=outcome.seconds,
        step_seconds=outcome.step_seconds,
        images_trained=outcome.images,
        provenance=provenance(str(device)),
    )


def _epochs(rules: Recipe, images: int, batch_size: int) -> int:
    """The recipe's epochs, or as many as its steps take."""
    if rules.steps is None:
        return rules.epochs
    return -(-rules.steps // max(1, images // batch_size))


def _drop_last(splits: Splits, config: Config) -> bool:
    """Every step at the configuration's batch size, unless there are too few images for one."""
    return len(splits.train) >= config.batch_size


def _saved_bytes(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[int, int]:
    """Images of the batch, and the bytes that are saved for them."""
    with saved_storages(model, [images, labels]) as saved:
        loss = nn.functional.cross_entropy(model(images), labels)
        total = sum(row.bytes for row in saved.rows())
    del loss
    return len(labels), total


def _measured(actual: Config, images: int, saved_bytes: int) -> dict[str, Any]:
    """What the first step saved, beside the prediction for as many images (a small set has no full batch)."""
    return {
        "image_size": actual.image_size,
        "batch_size": images,
        "saved_bytes": saved_bytes,
        "predicted_saved_bytes": predict(replace(actual, batch_size=images)).saved_bytes,
    }
