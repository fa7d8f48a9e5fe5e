"""A part of a data set as images for a model."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from bsr_explorer import interrupt
from bsr_explorer.data.cells import Encoded
from bsr_explorer.data.pool import Pool
from bsr_explorer.data.reading import RULES

KEPT_BYTES = 512 * 10**6
"""The most memory that transformed images may take, for a call of ``load_splits`` and across calls."""


@dataclass(frozen=True)
class Part:
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
        groups: the first item of each task, and that after its last, where no batch is of several; nothing, if one may
            be.
    """

    def __init__(
        self,
        part: Part,
        *,
        image_size: int,
        resize: Callable[[Image.Image], Image.Image],
        normalise: Callable[[Tensor], Tensor],
        flip: bool = False,
        crop: bool = False,
        draws: v2.RandomResizedCrop | None = None,
        views: int | None = None,
        seed: int = 0,
        keep_as: Hashable | None = None,
        transform: str = "",
        groups: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.groups = tuple(groups)
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
        self._draws = draws
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

    def files(self, *, whole_pool: bool = False) -> dict[Encoded, str]:
        """The files of the images (or their cells), or of all those that they were taken from, and the name of each
        below the data set's folder. There are none where the images lie in memory."""
        return self._images.files(None if whole_pool else self.indices)

    def identity(self) -> str:
        """Equal for equal images in this order, in any process: of what they are made, how, by what."""
        versions = [module.__version__ for module in (np, torch, torchvision, PIL)]
        drawn = [self._seed, self.view, _digest(self.indices)] if self._random else []
        images = self._fingerprint(self.indices).hex()
        return json.dumps([images, RULES, self._shape, self._transform, drawn, versions])

    def pixels(self, items: list[int]) -> Tensor:
        """The same images before they are normalised: uint8, (n, 3, S, S)."""
        return self._shown(items, self._all_pixels() if self.kept else None)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels as the items have them, on the device that they lie on."""
        return self._normalise(pixels)

    def _items(self, items: list[int], store: NDArray[np.uint8] | None) -> list[tuple[Tensor, int]]:
        shown = self._normalise(self._shown(items, store))
        return list(zip(shown, self.labels[items].tolist(), strict=True))

    def _shown(self, items: list[int], store: NDArray[np.uint8] | None) -> Tensor:
        if self._random and self.views is not None:
            drawn = [
                self._drawn(item, self._pixels if store is None else store.__getitem__) for item in items
            ]
            pixels = torch.from_numpy(_stacked([image for image, _ in drawn]))
            mirrored = torch.tensor([mirror for _, mirror in drawn])
        else:
            pixels = torch.from_numpy(self._made(items) if store is None else store[items])
            mirrored = (
                torch.rand(len(items)) < 0.5 if self._flip else torch.zeros(len(items), dtype=torch.bool)
            )
        pixels[mirrored] = pixels[mirrored].flip(-1)
        return pixels

    def _made(self, items: list[int]) -> NDArray[np.uint8]:
        """Pixels of images that are not kept, (n, 3, S, S). Threads decode and resize them; what is random is drawn in
        their order."""
        with ThreadPoolExecutor() as threads:
            if (crop := self._draws) is None:
                return _stacked(list(threads.map(self._pixels, items)))
            read = threads.map(lambda item: self._images[int(self.indices[item])], items)
            drawn = [(image, crop.make_params([image])) for image in read]
            return _stacked(list(threads.map(lambda each: _planes(crop.transform(*each)), drawn)))

    def _drawn(self, item: int, of: Callable[[int], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], bool]:
        """The pixels of an item in the present view, and whether they are mirrored in it."""
        seeds = np.random.SeedSequence((self._seed, int(self.indices[item]), self.view))
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs' generators too, which fork_rng does not restore here.
            torch.default_generator.manual_seed(int(seeds.generate_state(1)[0]))
            return of(item), self._flip and bool(torch.rand(()) < 0.5)

    def _pixels(self, item: int) -> NDArray[np.uint8]:
        return _planes(self._resize(self._images[int(self.indices[item])]))

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


def _planes(image: Image.Image) -> NDArray[np.uint8]:
    # NumPy, because torch starts its threads for each of these small copies, ten times slower on a busy machine.
    return np.asarray(image).transpose(2, 0, 1)


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Side by side, plane after plane, however each lies in memory."""
    return np.stack(images, out=np.empty((len(images), *images[0].shape), dtype=np.uint8))


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
