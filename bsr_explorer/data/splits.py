"""Images, in three parts that never overlap, and the batches that training draws from them.

The search sees ``validation`` only; ``test`` is for the one figure that is reported at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode, v2

from bsr_explorer.data import images, sources
from bsr_explorer.data.contents import Contents
from bsr_explorer.data.expression import MADE, Tasks, made_in, tasks_in
from bsr_explorer.data.images import ImageSplit, Part
from bsr_explorer.data.joined import joined, shares
from bsr_explorer.data.made import made
from bsr_explorer.data.normalise import Normalise
from bsr_explorer.data.pool import Given, Pool
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.train.recipes import Augment, MeanStd


@dataclass(frozen=True)
class Splits:
    """A data set in three parts.

    Attributes:
        train: what is trained on, with the augmentation that was asked for.
        validation: what a search compares by; the test set, where no images are held out for it.
        test: what is reported; no search may see it.
        classes: the name of each label, 0, 1, ….
        mean_std: of the 3 channels, by which pixel values in 0 to 1 were normalised.
        interpolation: name of the filter that resized the images.
        squash: whether images that are not cropped at random became square whatever their shape.
        description: names the parts, their sizes and where they come from, in one line.
        left_out: files of the data set that are in no part; see ``Contents``.
        tasks: classes of each task, by its name, in the order of the classes; nothing: there is one task.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    mean_std: MeanStd
    interpolation: str
    squash: bool
    description: str
    left_out: Mapping[str, int]
    tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Labels are 0 to ``num_classes - 1``."""
        return len(self.classes)

    @property
    def contents(self) -> Contents:
        """The images of each class in each part, and what was left out."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.validation is self.test:
            del parts["validation"]
        counts = {
            part: np.bincount(split.labels, minlength=self.num_classes).tolist()
            for part, split in parts.items()
        }
        classes = {part: dict(zip(self.classes, count, strict=True)) for part, count in counts.items()}
        return Contents(classes, self.left_out)


def load_splits(
    data: str,
    *,
    image_size: int,
    data_dir: Path,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augment = "none",
    crop_scale: tuple[float, float] = (0.05, 1.0),
    train_size: int | None = None,
    val_size: int | None = None,
    split_seed: int = 0,
    interpolation: str = "bicubic",
    squash: bool = False,
    views: int | None = None,
    skip: Collection[str] = (),
    hold_out: bool = True,
) -> Splits:
    """Load a data set, and download it where that is needed and possible.

    The split depends on ``split_seed`` alone, except that a ``val_size`` beyond the usual share takes
    the rest from train. A smaller ``train_size`` or ``val_size`` is a subset of a larger one.

    Image files are not expected to change while the process runs.

    Args:
        data: a name in ``DATASETS``, the path of an image folder, ``hub:OWNER/NAME``, or an expression of them (see
            ``expression``). Sizes of several tasks are shared equally, as far as each has so many images.
        image_size: side S of the square images, pixels.
        data_dir: where the files of the named data sets are, or go.
        mean: of each of the 3 channels, for pixel values in 0 to 1.
        std: likewise.
        augment: of train only: ``none``, ``flip`` (half of the images, left to right), ``crop`` (a
            random crop, resized) or ``crop_flip``.
        crop_scale: least and greatest area of a random crop, as a share of the image's.
        train_size: images to train on; None for all.
        val_size: images to validate on; None for all.
        split_seed: of the parts that a data set does not come with, and of the subsets.
        interpolation: name of a resampling filter: ``bicubic``, ``bilinear``, ``nearest``, …
        squash: whether both sides are resized to the image size; if not, the shorter one is, and the centre cropped.
        views: augmented views of each training image, which epochs take in turn; None: a new one each time.
        skip: images to leave out; see ``sources.load``.
        hold_out: whether images are held out of training for validation. If not, all of the training part is trained
            on, and ``validation`` is all of the test set (what a data set comes with for validation is left alone).

    Raises:
        UserError: the data set is not to be had or cannot be split, or a size is out of range.
    """
    if augment not in get_args(Augment):
        raise unknown("--augment", augment, get_args(Augment))
    tasks = tasks_in(data)
    sizes = {"--train-size": train_size, "--val-size": val_size}
    if tasks is None:
        found = _whole(data, data_dir, skip, val_size, split_seed, hold_out).cut(sizes, split_seed)
    else:
        found = _together(tasks, data_dir, skip, sizes, split_seed, hold_out)
    train, validation, test = found.parts

    filter_ = InterpolationMode(interpolation)
    side = [image_size, image_size] if squash else image_size
    still = v2.Compose([v2.Resize(side, filter_), v2.CenterCrop(image_size)])
    crop = v2.RandomResizedCrop(image_size, crop_scale, interpolation=filter_)
    normalise = Normalise(mean, std)
    budget = images.KEPT_BYTES

    def items(part: Part, *, cropped: bool = False, flip: bool = False) -> ImageSplit:
        nonlocal budget
        size = len(part) * 3 * image_size**2
        kept = not cropped and size <= budget
        budget -= size if kept else 0
        return ImageSplit(
            part,
            image_size=image_size,
            resize=crop if cropped else still,
            draws=crop if cropped and views is None else None,
            normalise=normalise,
            flip=flip,
            crop=cropped,
            views=views,
            seed=split_seed,
            keep_as=(image_size, interpolation, squash) if kept else None,
            transform=f"{interpolation}{' squashed' if squash else ''} mean={tuple(mean)} std={tuple(std)} flip={flip} "
            f"crop={tuple(crop_scale) if cropped else None}",
            groups=found.groups if tasks is not None and tasks.by_task and part is train else (),
        )

    trained = items(train, cropped=augment in ("crop", "crop_flip"), flip=augment in ("flip", "crop_flip"))
    judging = items(validation)
    return Splits(
        train=trained,
        validation=judging,
        test=items(test) if hold_out else judging,
        classes=found.classes,
        mean_std=(_three(mean), _three(std)),
        interpolation=interpolation,
        squash=squash,
        description=found.description,
        left_out=found.left_out,
        tasks=found.tasks,
    )


@dataclass(frozen=True)
class _Parts:
    """Train, validation and test of a data set, or of several.

    Attributes:
        given: where they come from.
        whole: in full.
        parts: those that are used.
        groups: the first training image of each task, and that after its last.
    """

    given: Given
    whole: tuple[Part, Part, Part]
    parts: tuple[Part, Part, Part]
    description: str
    tasks: Mapping[str, int] = field(default_factory=dict)
    groups: Sequence[tuple[int, int]] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.given.classes

    @property
    def left_out(self) -> Mapping[str, int]:
        return self.given.left_out


@dataclass(frozen=True)
class _Whole:
    """A data set in three parts, before any is left out for its size."""

    given: Given
    parts: tuple[Part, Part, Part]
    hold_out: bool

    def cut(self, sizes: Mapping[str, int | None], seed: int) -> _Parts:
        """Subsets of train and validation, by their flags."""
        if not self.hold_out:
            _check_whole(self.given, self.parts, *sizes.values())
        train, validation = (
            _subset(part, size, self.given, flag, seed)
            for part, (flag, size) in zip(self.parts, sizes.items(), strict=False)
        )
        used = train, validation, self.parts[2]
        return _Parts(
            self.given, self.parts, used, _describe(self.given, self.parts, used, seed, self.hold_out)
        )


def _whole(
    data: str, data_dir: Path, skip: Collection[str], val_size: int | None, seed: int, hold_out: bool
) -> _Whole:
    """One data set, which may be made of another."""
    making = made_in(data)
    given = sources.load(data if making is None else making[1], data_dir, skip)
    parts = _split(given, val_size, seed, hold_out)
    if making is None:
        return _Whole(given, parts, hold_out)
    name, _ = making
    # What is left to chance has a seed for each part: the images of one would else be turned as those of another.
    train, test = made(name, parts[0], seed), made(name, parts[2], seed + 2)
    validation = test if parts[1] is parts[2] else made(name, parts[1], seed + 1)
    given = replace(given, name=data, classes=MADE[name].classes(len(given.classes)))
    return _Whole(given, (train, validation, test), hold_out)


def _together(
    tasks: Tasks,
    data_dir: Path,
    skip: Collection[str],
    sizes: Mapping[str, int | None],
    seed: int,
    hold_out: bool,
) -> _Parts:
    """Several data sets as one."""
    each = []
    for name, member in zip(tasks.names, tasks.members, strict=True):
        mine = [file.removeprefix(f"{name}/") for file in skip if file.startswith(f"{name}/")]
        each.append(_whole(member, data_dir, mine, None, seed, hold_out))
    of_each: list[dict[str, int | None]] = [{} for _ in each]
    for place, (flag, size) in enumerate(sizes.items()):
        least, most = [len(one.given.classes) for one in each], [len(one.parts[place]) for one in each]
        if size is not None and not sum(least) <= size <= sum(most):
            raise UserError(
                f"{flag}: {size} images of {len(each)} tasks is out of range; choose from {sum(least)} (one of each "
                f"class) to {sum(most)}"
            )
        shared = [None] * len(each) if size is None or not hold_out else shares(size, least, most)
        for one, share in zip(of_each, shared, strict=True):
            one[flag] = share if hold_out else size
    found = [one.cut(mine, seed) for one, mine in zip(each, of_each, strict=True)]
    counts = [len(one.classes) for one in found]
    used = [joined(tasks.names, [one.parts[n] for one in found], counts) for n in range(3)]
    whole = [joined(tasks.names, [one.whole[n] for one in found], counts) for n in range(3)]
    classes = tuple(
        f"{name}: {known}" for name, one in zip(tasks.names, found, strict=True) for known in one.classes
    )
    left_out = Counter[str]()
    for parts in found:
        left_out.update(parts.left_out)
    ends = np.cumsum([0, *(len(one.parts[0]) for one in found)]).tolist()
    return _Parts(
        Given("tasks", classes, whole[0].pool, left_out=dict(left_out)),
        (whole[0], whole[1], whole[2]),
        (used[0], used[1], used[2]),
        f"{len(found)} tasks: " + "; ".join(one.description for one in found),
        dict(zip(tasks.names, counts, strict=True)),
        list(pairwise(ends)),
    )


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    """A random order in which every beginning has the classes in proportion.

    Of C classes, the first C items have one of each, and the first n items have at most 1 item of a class
    more than its share of n, and at least its share of n - C.

    Args:
        labels: (N,) class of each item.
        seed: equal seeds give equal orders.

    Returns:
        (N,) positions in ``labels``, each once.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    progress = rank / np.repeat(counts, counts)
    # Items of equal progress come in random order, or the first classes would always be ahead.
    return by_class[np.lexsort((rng.random(len(labels)), progress))]


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _split(given: Given, val_size: int | None, seed: int, hold_out: bool) -> tuple[Part, Part, Part]:
    """Train, validation and test in full: as given, or cut from train. Without images that are held out, validation is
    the test set."""
    pool, classes = given.train, len(given.classes)
    rest = np.arange(len(pool.labels))
    if given.test is None:
        size = max(classes, math.ceil(len(pool.labels) * given.percent / 100))
        held_out, rest = _cut(pool, rest, size, seed)
        test = Part(pool, held_out)
    else:
        test = Part(given.test, np.arange(len(given.test.labels)))
    if not hold_out:
        validation = test
    elif given.validation is None:
        size = max(classes, len(pool.labels) * given.percent // 100, val_size or 0)
        held_out, rest = _cut(pool, rest, size, seed)
        validation = Part(pool, held_out)
    else:
        validation = Part(given.validation, np.arange(len(given.validation.labels)))
    if len(np.unique(pool.labels[rest])) < classes:
        raise UserError(
            f"--val-size: {val_size} of the {len(pool.labels)} train images of {given.name} leaves a class "
            "with none to train on; choose fewer"
        )
    return Part(pool, rest), validation, test


def _check_whole(given: Given, whole: Sequence[Part], train_size: int | None, val_size: int | None) -> None:
    """Refuse a part of the images where none are held out: it would be neither protocol."""
    for flag, size, part, name in (
        ("--train-size", train_size, whole[0], "training"),
        ("--val-size", val_size, whole[1], "test"),
    ):
        if size not in (None, len(part)):
            raise UserError(
                f"{flag}: {size} is not allowed with --protocol authors, which takes all {len(part)} {name} images of "
                f"{given.name}; leave it out, or choose --protocol held-out"
            )


def _cut(
    pool: Pool, indices: NDArray[np.intp], size: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """``size`` of ``indices``, stratified, and the others."""
    order = indices[stratified_order(pool.labels[indices], seed)]
    return order[:size], order[size:]


def _subset(part: Part, size: int | None, given: Given, flag: str, seed: int) -> Part:
    if size is None:
        return part
    if not len(given.classes) <= size <= len(part):
        raise UserError(
            f"{flag}: {size} images of {given.name} is out of range; choose from {len(given.classes)} "
            f"(one of each class) to {len(part)}"
        )
    return Part(part.pool, _cut(part.pool, part.indices, size, seed)[0])


def _describe(given: Given, whole: Sequence[Part], used: Sequence[Part], seed: int, hold_out: bool) -> str:
    parts = list(zip(("train", "validation", "test"), used, whole, strict=True))
    pools = {"validation": given.validation, "test": given.test}
    if not hold_out:
        del parts[1], pools["validation"]
    sizes = " / ".join(
        f"{name} {len(part)}" + (f" of {len(all_of_it)}" if len(part) < len(all_of_it) else "")
        for name, part, all_of_it in parts
    )
    cut = [name for name, pool in pools.items() if pool is None]
    origin = ("split as given", f"{''.join(cut)} cut from train, stratified", "stratified")[len(cut)]
    random = cut or any(len(part) < len(all_of_it) for _, part, all_of_it in parts)
    held = "" if hold_out else ", none held out for validation"
    return f"{given.name}: {sizes}, {origin}{held}" + (f", split seed {seed}" if random else "")
