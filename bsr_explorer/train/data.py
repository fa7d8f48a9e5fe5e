"""Images, in three parts that never overlap, and the batches that training draws from them.

The search sees ``validation`` only; ``test`` is for the one figure that is reported at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from bsr_explorer import interrupt
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.train import sources
from bsr_explorer.train.contents import Contents
from bsr_explorer.train.images import RULES
from bsr_explorer.train.recipes import Augment, MeanStd
from bsr_explorer.train.sources import Given, Pool

KEPT_BYTES = 512 * 10**6
"""The most memory that transformed images may take, for a call of ``load_splits`` and across calls."""


@dataclass(frozen=True)
class _Part:
    pool: Pool
    indices: NDArray[np.intp]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.pool.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)


class ImageSplit(Dataset[tuple[Tensor, int]]):
    """One part of a data set. Items are a normalised float32 image (3, S, S) and its label.

    Flips and crops draw from torch's global generator: ``torch.manual_seed`` makes them repeatable. With fixed
    views they follow from the seed of the split, the image and the view alone, and draw from none.

    Attributes:
        pool_key: which images ``indices`` counts; parts of equal keys share their images.
        indices: (N,) positions in the pool.
        labels: (N,) the label of each item.
        kept: whether the transformed images stay in memory, so that each is transformed once.
        views: how many fixed views there are of an image (one, if nothing is random); None: a new one each time.
        view: which of them is shown now.
    """

    def __init__(
        self,
        part: _Part,
        *,
        image_size: int,
        resize: Callable[[Image.Image], Image.Image],
        normalise: Callable[[Tensor], Tensor],
        flip: bool = False,
        crop: bool = False,
        views: int | None = None,
        seed: int = 0,
        keep_as: Hashable | None = None,
        transform: str = "",
    ) -> None:
        self.pool_key = part.pool.key
        self.indices = part.indices
        self.labels = part.labels
        self.kept = keep_as is not None
        self._images = part.pool.images
        self._shape = (len(part), 3, image_size, image_size)
        self._resize = resize
        self._normalise = normalise
        self._flip = flip
        self._random = flip or crop
        self.views = views if self._random else 1
        self.view = 0
        self._seed = seed
        self._fingerprint = part.pool.images.fingerprint
        self._transform = transform
        self._key = (keep_as, part.pool.key, part.indices.tobytes())
        self._store: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[int]) -> list[tuple[Tensor, int]]:
        """The items of one batch; torch's data loader prefers this to one item at a time."""
        return self._items(items, self._all_pixels() if self.kept else None)

    def few(self, items: list[int]) -> list[tuple[Tensor, int]]:
        """The same, where most items are never asked for: the others are not transformed for it."""
        return self._items(items, self._store if self._store is not None else _STORE.get(self._key))

    def turn_to(self, epoch: int) -> None:
        """Show the view of an epoch (0-based)."""
        self.view = epoch % self.views if self.views else 0

    def files(self, *, whole_pool: bool = False) -> dict[Path, str]:
        """The files of the images, or of all those that they were taken from, and the name of each below the data set's
        folder. There are none where the images lie in memory."""
        if not isinstance(self._images, sources.Files):
            return {}
        every = self._images.paths
        paths = every if whole_pool else (every[index] for index in self.indices)
        return {path: self._images.name(path) for path in paths}

    def identity(self) -> str:
        """Equal for equal images in this order, in any process: of what they are made, how, by what."""
        versions = [module.__version__ for module in (np, torch, torchvision, PIL)]
        drawn = [self._seed, self.view, _digest(self.indices)] if self._random else []
        images = self._fingerprint(self.indices).hex()
        return json.dumps([images, RULES, self._shape, self._transform, drawn, versions])

    def _items(self, items: list[int], store: NDArray[np.uint8] | None) -> list[tuple[Tensor, int]]:
        def of(item: int) -> NDArray[np.uint8]:
            return self._pixels(item) if store is None else store[item]

        if self._random and self.views is not None:
            drawn = [self._drawn(item, of) for item in items]
            pixels = torch.from_numpy(np.stack([image for image, _ in drawn]))
            mirrored = torch.tensor([mirror for _, mirror in drawn])
        else:
            pixels = torch.from_numpy(np.stack([of(item) for item in items]))
            mirrored = (
                torch.rand(len(items)) < 0.5 if self._flip else torch.zeros(len(items), dtype=torch.bool)
            )
        pixels[mirrored] = pixels[mirrored].flip(-1)
        return list(zip(self._normalise(pixels), self.labels[items].tolist(), strict=True))

    def _drawn(self, item: int, of: Callable[[int], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], bool]:
        """The pixels of an item in the present view, and whether they are mirrored in it."""
        seeds = np.random.SeedSequence((self._seed, int(self.indices[item]), self.view))
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs' generators too, which fork_rng does not restore here.
            torch.default_generator.manual_seed(int(seeds.generate_state(1)[0]))
            return of(item), self._flip and bool(torch.rand(()) < 0.5)

    def _pixels(self, item: int) -> NDArray[np.uint8]:
        # NumPy, because torch starts its threads for each of these small copies, ten times slower on a
        # machine that is busy.
        image = self._images[int(self.indices[item])]
        return np.asarray(self._resize(image)).transpose(2, 0, 1)

    def _all_pixels(self) -> NDArray[np.uint8]:
        if self._store is None:
            self._store = _remembered(self._key, self._make_all_pixels)
        return self._store

    def _make_all_pixels(self) -> NDArray[np.uint8]:
        store = np.empty(self._shape, dtype=np.uint8)
        # Threads, because decoding and resizing spend their time outside of the interpreter's lock.
        threads = ThreadPoolExecutor()
        try:
            for item, pixels in enumerate(threads.map(self._pixels, range(len(self)))):
                interrupt.check()
                store[item] = pixels
        finally:
            threads.shutdown(cancel_futures=True)  # what is left, if something went wrong
        return store


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
        data: a name in ``DATASETS`` or the path of an image folder.
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
        skip: image files to leave out, by their path below the folder of the data.
        hold_out: whether images are held out of training for validation. If not, all of the training part is trained
            on, and ``validation`` is all of the test set (what a data set comes with for validation is left alone).

    Raises:
        UserError: the data set is not to be had or cannot be split, or a size is out of range.
    """
    if augment not in get_args(Augment):
        raise unknown("--augment", augment, get_args(Augment))
    given = sources.load(data, data_dir, skip)
    whole = _split(given, val_size, split_seed, hold_out)
    if not hold_out:
        _check_whole(given, whole, train_size, val_size)
    train = _subset(whole[0], train_size, given, "--train-size", split_seed)
    validation = _subset(whole[1], val_size, given, "--val-size", split_seed)
    test = whole[2]

    filter_ = InterpolationMode(interpolation)
    side = [image_size, image_size] if squash else image_size
    still = v2.Compose([v2.Resize(side, filter_), v2.CenterCrop(image_size)])
    crop = v2.RandomResizedCrop(image_size, crop_scale, interpolation=filter_)
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])
    budget = KEPT_BYTES

    def items(part: _Part, *, cropped: bool = False, flip: bool = False) -> ImageSplit:
        nonlocal budget
        size = len(part) * 3 * image_size**2
        kept = not cropped and size <= budget
        budget -= size if kept else 0
        return ImageSplit(
            part,
            image_size=image_size,
            resize=crop if cropped else still,
            normalise=normalise,
            flip=flip,
            crop=cropped,
            views=views,
            seed=split_seed,
            keep_as=(image_size, interpolation, squash) if kept else None,
            transform=f"{interpolation}{' squashed' if squash else ''} mean={tuple(mean)} std={tuple(std)} flip={flip} "
            f"crop={tuple(crop_scale) if cropped else None}",
        )

    trained = items(train, cropped=augment in ("crop", "crop_flip"), flip=augment in ("flip", "crop_flip"))
    judging = items(validation)
    return Splits(
        train=trained,
        validation=judging,
        test=items(test) if hold_out else judging,
        classes=given.classes,
        mean_std=(_three(mean), _three(std)),
        interpolation=interpolation,
        squash=squash,
        description=_describe(given, whole, (train, validation, test), split_seed, hold_out),
        left_out=given.left_out,
    )


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    drop_last: bool,
    workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images (B, 3, S, S) and labels (B,).

    The order of every epoch follows from ``seed``; a second epoch has another order than the first.

    Args:
        dataset: a part of ``Splits``.
        batch_size: images a batch, B.
        shuffle: whether to draw in random order.
        seed: of the order, and of the augmentation where there are workers.
        drop_last: whether to leave out a last batch that is not full.
        workers: processes that load images. Images that are kept in memory need none and get none.

    Raises:
        UserError: ``drop_last`` with fewer images than a batch, which would leave nothing.
    """
    count = len(dataset)  # type: ignore[arg-type]  # torch leaves __len__ to the data sets that have one
    if drop_last and count < batch_size:
        raise UserError(f"--batch-size: {batch_size} is more than the {count} images; choose at most {count}")
    if isinstance(dataset, ImageSplit) and dataset.kept:
        workers = 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
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


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


_STORE: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()


def _remembered(key: Hashable, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What ``make`` made when it was last asked for; what was not used for longest is forgotten first."""
    if key in _STORE:
        _STORE.move_to_end(key)
        return _STORE[key]
    made = make()
    while _STORE and made.nbytes + sum(kept.nbytes for kept in _STORE.values()) > KEPT_BYTES:
        _STORE.popitem(last=False)
    _STORE[key] = made
    return made


def _split(given: Given, val_size: int | None, seed: int, hold_out: bool) -> tuple[_Part, _Part, _Part]:
    """Train, validation and test in full: as given, or cut from train. Without images that are held out, validation is
    the test set."""
    pool, classes = given.train, len(given.classes)
    rest = np.arange(len(pool.labels))
    if given.test is None:
        size = max(classes, math.ceil(len(pool.labels) * given.percent / 100))
        held_out, rest = _cut(pool, rest, size, seed)
        test = _Part(pool, held_out)
    else:
        test = _Part(given.test, np.arange(len(given.test.labels)))
    if not hold_out:
        validation = test
    elif given.validation is None:
        size = max(classes, len(pool.labels) * given.percent // 100, val_size or 0)
        held_out, rest = _cut(pool, rest, size, seed)
        validation = _Part(pool, held_out)
    else:
        validation = _Part(given.validation, np.arange(len(given.validation.labels)))
    if len(np.unique(pool.labels[rest])) < classes:
        raise UserError(
            f"--val-size: {val_size} of the {len(pool.labels)} train images of {given.name} leaves a class "
            "with none to train on; choose fewer"
        )
    return _Part(pool, rest), validation, test


def _check_whole(given: Given, whole: Sequence[_Part], train_size: int | None, val_size: int | None) -> None:
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


def _subset(part: _Part, size: int | None, given: Given, flag: str, seed: int) -> _Part:
    if size is None:
        return part
    if not len(given.classes) <= size <= len(part):
        raise UserError(
            f"{flag}: {size} images of {given.name} is out of range; choose from {len(given.classes)} "
            f"(one of each class) to {len(part)}"
        )
    return _Part(part.pool, _cut(part.pool, part.indices, size, seed)[0])


def _describe(given: Given, whole: Sequence[_Part], used: Sequence[_Part], seed: int, hold_out: bool) -> str:
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
