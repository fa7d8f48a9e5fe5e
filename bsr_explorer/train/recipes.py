"""How a fine-tune is run: named presets. Plain data, no torch.

``short``, ``standard``, ``sgd`` and ``language`` are ours. The ``paper-*`` presets are those of the authors' code of
Block Selective Reprogramming (github.com/sreetamasarkar/BSR, commit 8b42bbe): beside each setting stands the file that
has it. ``studies/paper/README.md`` says where a training by them differs from one by that code.
"""

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
        interpolation: name of the filter that resizes images.
        squash: whether an image that is not cropped at random is resized to the square, whatever its shape; if not,
            its shorter side is, and its centre cropped.
        tag: of the weights on the hub, in timm's terms, where a model's name has none; None: the model's own.
        head_std: standard deviation of the head's weights at the start (0: they are zeros); None: the model's own.
        partial_batch: whether the last images of an epoch are trained on where they are no full batch.
        counted_from: what the first step counts as, 0 or 1, in a schedule that starts from a rate of 0; None: no step
            has that rate.
        least_rate: what the schedule ends at, as a share of the peak.
        evaluate_every: steps between the evaluations that the authors' protocol takes the best of; each is made when
            the epoch that they end in is over.
        data: the data sets that the source is for; none: any.
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
    interpolation: str = "bicubic"
    squash: bool = False
    tag: str | None = None
    head_std: float | None = None
    partial_batch: bool = False
    counted_from: int | None = None
    least_rate: float = 0.0
    evaluate_every: int = 1
    data: tuple[str, ...] = ()

    def lr_for_batch(self, batch_size: int) -> float:
        """The peak learning rate at a batch size."""
        return self.lr if self.lr_batch is None else self.lr * batch_size / self.lr_batch

    def steps_an_epoch(self, images: int, batch_size: int) -> int:
        """Steps of an epoch of so many images: of full batches alone, unless there are too few for one."""
        full, left = divmod(images, batch_size)
        return full + (left > 0 and (self.partial_batch or full == 0))


_PAPER_VIT_B = Recipe(
    name="paper-vit-b",
    source="authors' code of BSR (arXiv 2405.10951): SGD, cosine, 500 steps of warm-up, 20k steps, batch 128",
    optimizer="sgd_momentum",  # train.py, momentum 0.9
    lr=1e-3,  # exp_scripts, see _PAPER_LR
    weight_decay=0.0,  # train.py
    epochs=1,
    steps=20_000,  # exp_scripts
    batch_size=128,  # exp_scripts
    clip=1.0,  # train.py
    warmup_steps=500,  # train.py
    augment="crop",  # datasets/data_utils.py: no flips
    crop_scale=(0.05, 1.0),  # datasets/data_utils.py
    mean_std=HALF,  # datasets/data_utils.py
    interpolation="bilinear",  # datasets/data_utils.py: torchvision's default
    squash=True,  # datasets/data_utils.py: Resize((224, 224))
    tag="orig_in21k",  # exp_scripts: ViT-B_16.npz, the first ImageNet-21k weights
    head_std=0.0,  # train.py: load_from(…, zero_head=True)
    partial_batch=True,  # datasets/data_utils.py: no drop_last
    counted_from=1,  # train.py: scheduler.step() before optimizer.step(); util/scheduler.py
    evaluate_every=1000,  # exp_scripts
    data=("cifar10", "cifar100", "flowers102", "pets", "food101"),  # exp_scripts
)

_PAPER_LR = {"cifar10": 1e-3, "cifar100": 1e-2, "flowers102": 3e-2, "pets": 1e-3, "food101": 1e-2}
"""Learning rate of ``paper-vit-b`` by dataset: ``exp_scripts``."""

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
    "sgd": Recipe(
        name="sgd",
        source="ours: plain SGD for a few epochs, without momentum, decay or clipping; WASI's learning rate",
        optimizer="sgd",
        lr=0.05,
        weight_decay=0.0,
        epochs=3,
        batch_size=32,
    ),
    "language": Recipe(
        name="language",
        source="ours: language models, from random weights or from a checkpoint",
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.1,
        epochs=3,
        batch_size=16,
        clip=1.0,
    ),
    "paper-deit-s": Recipe(
        name="paper-deit-s",
        source="authors' code of BSR (arXiv 2405.10951): AdamW, 50 epochs, 5 of them warm-up, batch 128",
        optimizer="adamw",  # main_reprogram.py
        lr=1e-3,  # main_reprogram.py: blr
        lr_batch=256,  # main_reprogram.py
        weight_decay=0.05,  # main_reprogram.py
        epochs=50,  # main_reprogram.py
        batch_size=128,  # exp_scripts/cifar10_deits.sh
        layer_decay=0.75,  # main_reprogram.py
        label_smoothing=0.1,  # main_reprogram.py
        warmup_fraction=0.1,  # main_reprogram.py: 5 of 50 epochs
        augment="crop_flip",  # datasets/cifar.py
        crop_scale=(0.08, 1.0),  # datasets/cifar.py: torchvision's default
        mean_std=IMAGENET,  # datasets/cifar.py
        interpolation="bilinear",  # datasets/cifar.py: torchvision's default
        squash=False,  # datasets/cifar.py: Resize(224), CenterCrop(224)
        tag="fb_in1k",  # exp_scripts/cifar10_deits.sh: deit_small_patch16_224-cd65a155.pth
        head_std=2e-5,  # main_reprogram.py: trunc_normal_
        partial_batch=False,  # main_reprogram.py: drop_last
        counted_from=0,  # engine_finetune.py: adjust_learning_rate(step / steps of an epoch + epoch)
        least_rate=1e-6 / 5e-4,  # main_reprogram.py: min_lr, of the rate at batch 128
        evaluate_every=1,  # main_reprogram.py: after each epoch
        data=("cifar10",),  # main_reprogram.py: of what there is code for, the one that is no ImageNet
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
        chosen = replace(chosen, lr=_PAPER_LR.get(data, chosen.lr), steps=steps)
    if chosen.data and data and data not in chosen.data:
        named = ", ".join(chosen.data)
        chosen = replace(
            chosen, source=f"after the {chosen.source}; not theirs on this data: they have it for {named}"
        )
    return chosen


def check_optimizer(optimizer: str) -> None:
    """Refuse an optimiser whose package is not installed, before any work is done.

    Raises:
        UserError: it names the package.
    """
    if optimizer == "adamw_8bit":
        require("bitsandbytes", f"--optimizer: {optimizer}", "8bit", ", or choose adamw")
