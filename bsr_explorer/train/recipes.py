"""How a fine-tune is run: named presets. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bsr_explorer.errors import UserError, require, unknown

Augment = Literal["none", "flip", "crop", "crop_flip"]

MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]

IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Recipe:
    """Everything about a fine-tune but its model, method, data and seed.

    Attributes:
        optimizer: key of ``cost.optimizers.OPTIMIZERS``.
        lr: learning rate at the peak of the schedule; ``lr_for_batch`` applies ``lr_batch``.
        lr_batch: batch size that ``lr`` is meant for (it scales linearly), or None: as it is.
        head_lr_scale: factor for the head, which starts from nothing.
        layer_decay: factor of the learning rate from one block to the one below it.
        warmup_steps: steps of linear warm-up, or None: ``warmup_fraction`` of all steps.
        clip: largest norm of the gradient, or None.
        length: epochs, unless ``steps`` says otherwise.
        mean_std: normalisation of the images, or None: as the weights were pretrained.
    """

    name: str
    source: str
    optimizer: str
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    steps: int | None = None
    lr_batch: int | None = None
    head_lr_scale: float = 1.0
    layer_decay: float = 1.0
    momentum: float = 0.9
    label_smoothing: float = 0.0
    clip: float | None = None
    warmup_steps: int | None = None
    warmup_fraction: float = 0.1
    augment: Augment = "none"
    crop_scale: tuple[float, float] = (0.05, 1.0)
    mean_std: MeanStd | None = None

    def lr_for_batch(self, batch_size: int) -> float:
        """The peak learning rate at a batch size."""
        return self.lr if self.lr_batch is None else self.lr * batch_size / self.lr_batch


_PAPER_VIT_B = Recipe(
    name="paper-vit-b",
    source="authors' code of BSR (arXiv 2405.10951): SGD, cosine, 500 steps of warm-up, 20k steps, batch 128",
    optimizer="sgd_momentum",
    lr=1e-3,
    weight_decay=0.0,
    epochs=1,
    steps=20_000,
    batch_size=128,
    clip=1.0,
    warmup_steps=500,
    augment="crop",
    mean_std=HALF,
)

_PAPER_LR = {"cifar10": 1e-3, "cifar100": 1e-2, "flowers102": 3e-2, "pets": 1e-3, "food101": 1e-2}
"""Learning rate of ``paper-vit-b`` by dataset."""

RECIPES: dict[str, Recipe] = {
    "short": Recipe(
        name="short",
        source="ours: a few epochs that rank configurations on a small machine",
        optimizer="adamw",
        lr=4e-4,
        weight_decay=0.05,
        epochs=3,
        batch_size=32,
        head_lr_scale=5.0,
        layer_decay=0.75,
        clip=1.0,
    ),
    "standard": Recipe(
        name="standard",
        source="ours: a full training; crops, but no flips, which would make other digits and letters of some",
        optimizer="adamw",
        lr=4e-4,
        weight_decay=0.05,
        epochs=30,
        batch_size=32,
        head_lr_scale=5.0,
        layer_decay=0.75,
        label_smoothing=0.1,
        clip=1.0,
        augment="crop",
        crop_scale=(0.7, 1.0),
    ),
    "paper-deit-s": Recipe(
        name="paper-deit-s",
        source="authors' code of BSR (arXiv 2405.10951): AdamW, 50 epochs, 5 of them warm-up, batch 128",
        optimizer="adamw",
        lr=1e-3,
        lr_batch=256,
        weight_decay=0.05,
        epochs=50,
        batch_size=128,
        layer_decay=0.75,
        label_smoothing=0.1,
        augment="crop_flip",
        mean_std=IMAGENET,
    ),
    "paper-vit-b": _PAPER_VIT_B,
}


def recipe(name: str, data: str = "", optimizer: str | None = None) -> Recipe:
    """A preset, with the learning rate that it prescribes for a dataset.

    Args:
        optimizer: what the configuration counts memory for; it must be the recipe's own, or its 8-bit kin.

    Raises:
        UserError: an unknown preset, or an optimiser that is not the preset's.
    """
    if name not in RECIPES:
        raise unknown("--recipe", name, RECIPES)
    chosen = RECIPES[name]
    if optimizer is not None and optimizer.removesuffix("_8bit") != chosen.optimizer:
        raise UserError(
            f"--optimizer: {optimizer!r} does not go with --recipe {name}, which uses {chosen.optimizer!r}"
        )
    if name == "paper-vit-b":
        steps = 30_000 if data == "food101" else chosen.steps
        return replace(chosen, lr=_PAPER_LR.get(data, chosen.lr), steps=steps)
    return chosen


def check_optimizer(optimizer: str) -> None:
    """Refuse an optimiser whose package is not installed, before any work is done.

    Raises:
        UserError: it names the package.
    """
    if optimizer == "adamw_8bit":
        require("bitsandbytes", f"--optimizer: {optimizer}", "8bit", ", or choose adamw")
