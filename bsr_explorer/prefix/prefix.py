"""The outputs of frozen blocks for all images, computed once.

Trainings with the same frozen blocks share these outputs. They lie in memory-mapped files, one for the images of one
part of the data in one view. The name of a file is a hash of everything that its content depends on (weights,
operations, images, number format, versions, images in a pass).

The outputs are those of the whole model, bit for bit. They are computed in passes of as many images, and it is tried
first whether an image gives the same output at every place in a batch. The first batch of each epoch and of each
evaluation (of every ``OFTEN`` batches, if these are fewer) also runs through the whole model, and is compared with what
is kept. If they differ before a step has used them, or if they cannot be kept, training continues with images. If they
differ later, it has to begin again without them.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from bsr_explorer import interrupt
from bsr_explorer.data.images import ImageSplit
from bsr_explorer.prefix.cache import BITS, LOG, Bits, Cache
from bsr_explorer.prefix.continued import Continued, Stage
from bsr_explorer.prefix.frozen import frozen_blocks, hashes
from bsr_explorer.prefix.steady import Steadiness
from bsr_explorer.train.step import autocast, image_dtype

# --- blocks ---------------------------------------------------------------------------------------------


OFTEN = 8
"""Batches between two that go the whole way, at least."""


class Changed(Exception):
    """What was kept is not what the first blocks make of images, and steps have gone by it."""


class Kept(NamedTuple):
    """What a prefix makes of the images of a split, (images, N, D), and its key."""

    key: str
    rows: Bits


class Prefix:
    """The blocks of a model that nothing can change in one training, and what they make of images.

    Args:
        model: ready to train.
        stages: what stands below the blocks, and each block, does.
        cache: where its outputs lie.
        precision: key of ``models.lowering.PRECISIONS``.
        name: of the model; the same is computed by models of the same name.
        relied: asked whether steps of this training went the short way before it was interrupted.

    Attributes:
        model: to be trained in the model's place.
        blocks: how many; 0 if there is nothing that could be made once.
        used: whether any batch went the short way.
    """

    used = False

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        cache: Cache,
        precision: str,
        name: str,
        relied: Callable[[], bool] = lambda: False,
    ) -> None:
        self.blocks = frozen_blocks(model, stages, precision)
        self.model = Continued(model, self.blocks)
        self._stages, self._cache, self._precision = stages, cache, precision
        self._device = next(model.parameters()).device
        self._dtype = image_dtype(precision)
        about = json.dumps([name, precision, _environment(self._device)])
        self._keys = list(hashes(self.model, stages, precision, about)) if self.blocks else []
        self._relied = relied
        self._sound = self.blocks > 0
        self._expected: Kept | None = None
        self._seen: list[Bits] = []
        self._watching: Any = None
        self._tried = Steadiness(self.model, [stage.shape for stage in stages], precision)
        self._parts: list[Prefixed] = []

    def part(
        self,
        split: ImageSplit,
        images: int,
        batches: bool,
        whole: Callable[[], bool] = lambda: False,
        batch: int | None = None,
    ) -> Prefixed:
        """A part of the data for the model.

        Args:
            images: that pass at once.
            batches: whether they always pass in this order, and so many of them (the last ones may be fewer).
            whole: asked before each batch, whether it shall go the whole way.
            batch: images of a batch; one of fewer goes the whole way, for kernels may differ by size. None: any number
                goes the short one.
        """
        self._parts.append(Prefixed(self, split, images, batches, whole, batch))
        return self._parts[-1]

    def of(self, split: ImageSplit, images: int, batches: bool) -> Kept | None:
        """What the prefix makes of the present view of a split; None if it is not to be had."""
        names = self._names(split, images, batches)
        shapes = [(len(split), *stage.shape) for stage in self._stages]
        bits = BITS[self._dtype.itemsize][1]
        if (found := self._cache.find(names[-1], shapes[self.blocks], bits)) is not None:
            return Kept(names[-1], found)
        if not batches and not self._tried.steady(images):
            LOG.info(
                "frozen blocks run again in each step: an image is not the same at all places of a batch"
            )
            return None

        def make() -> Iterator[Bits]:
            for done in reversed(range(1, self.blocks)):  # from what fewer blocks have made, if it is there
                if (found := self._cache.find(names[done], shapes[done], bits)) is not None:
                    return self._made(split, images, batches, done, found)
            return self._made(split, images, batches, None, None)

        got = self._cache.get(names[-1], shapes[self.blocks], bits, make)
        return None if got is None else Kept(names[-1], got)

    def tensor(self, rows: Bits) -> Tensor:
        """Bits as numbers."""
        return torch.from_numpy(rows).view(self._dtype)

    def _names(self, split: ImageSplit, images: int, batches: bool) -> list[str]:
        """Of what stands below the blocks, and of the first block with it, the first two, … make of a split."""
        about = json.dumps([split.identity(), images, batches])
        return [hashlib.sha256(f"{key} {about}".encode()).hexdigest()[:32] for key in self._keys]

    def expect(self, kept: Kept) -> None:
        """The next step goes the whole way: note what the prefix makes of its images, to compare it with these rows."""
        if self._watching is None:
            after = self.model.after(self.blocks)
            self._watching = after.register_forward_pre_hook(self._note, prepend=True)
        self._expected = kept

    def sound(self) -> bool:
        """Whether what was kept is what the prefix makes, to the last bit, as far as that was seen.

        Raises:
            Changed: it is not, and steps have gone by it.
        """
        if self._expected is not None and self._seen:
            expected, self._expected = self._expected, None
            made, self._seen = np.concatenate(self._seen), []
            if not np.array_equal(made, expected.rows[: len(made)]):  # a step that diverged ends early
                self._unsound(expected.key)
        return self._sound

    def close(self) -> None:
        """Training is over: look once more at what was fed in last.

        Raises:
            Changed: see ``sound``.
        """
        self.sound()
        if self._watching is not None:
            self._watching.remove()
        for part in self._parts:
            if (last := part.last()) is not None:
                images, kept = last
                if self._sound and not np.array_equal(_bits(self._through(images)), kept.rows):
                    self._unsound(kept.key)

    def _unsound(self, key: str) -> None:
        self._sound = False
        self._cache.forget(key)
        why = "what they make of images is not what they made of them before, to the last bit"
        if self.used or self._relied():
            raise Changed(f"{self.blocks} frozen blocks: {why}")
        LOG.warning("%d frozen blocks run again in each step: %s", self.blocks, why)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._expected is not None:  # a copy outside of torch's memory, which is being measured
            self._seen.append(np.array(_bits(inputs[0].detach())))

    def _made(
        self, split: ImageSplit, images: int, batches: bool, done: int | None, found: Bits | None
    ) -> Iterator[Bits]:
        for first in range(0, len(split), images):
            interrupt.check()
            items = list(range(first, min(first + images, len(split))))
            count = len(items)
            if not batches:  # all passes are as large, for kernels may differ by size
                items = [item % len(split) for item in range(first, first + images)]
            x = default_collate(split.__getitems__(items))[0] if found is None else self.tensor(found[items])
            yield _bits(self._through(x, done)[:count])

    @torch.no_grad()
    def _through(self, x: Tensor, done: int | None = None) -> Tensor:
        """Images, or what some blocks have made of them, through the prefix, as evaluation does it."""
        training = self.model.training
        self.model.eval()
        try:
            with autocast(self._precision, self._device):
                return self.model.prefix(x.to(self._device, self._dtype), done)
        finally:
            self.model.train(training)


class Prefixed(Dataset[tuple[Tensor, int]]):
    """A part of the data, as what a prefix makes of it where that can be had, else as images.

    Items are tokens (N, D), or a normalised image (3, S, S), and a label.
    """

    def __init__(
        self,
        prefix: Prefix,
        split: ImageSplit,
        images: int,
        batches: bool,
        whole: Callable[[], bool],
        batch: int | None,
    ) -> None:
        self._prefix, self._split, self._whole, self._batch = prefix, split, whole, batch
        self._images, self._batches = images, batches
        self._made: tuple[int, Kept | None] | None = None
        self._begins, self._since = True, OFTEN
        self._last: list[int] = []

    def __len__(self) -> int:
        return len(self._split)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """As those of the images."""
        return self._split.groups

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[int]) -> list[tuple[Tensor, int]]:
        """The items of one batch."""
        sound = self._split.views is not None and self._prefix.sound()
        if self._batch not in (None, len(items)):
            return self._split.__getitems__(items)
        begins, self._begins = self._begins or (self._batches and items[0] == 0), False
        kept = self._kept() if sound else None
        if kept is None:
            return self._split.__getitems__(items)
        rows = kept.rows[items]
        if (begins and self._since >= OFTEN) or self._whole():
            self._since = 0
            self._prefix.expect(Kept(kept.key, rows))
            return self._split.few(items)
        self._since += 1
        self._last = items
        self._prefix.used = True
        return list(zip(self._prefix.tensor(rows), self._split.labels[items].tolist(), strict=True))

    def last(self) -> tuple[Tensor, Kept] | None:
        """The images (B, 3, S, S) that passed at once in the last batch, and what the prefix made of them before; None
        if no batch went the short way."""
        items, kept = self._last[: self._images], self._kept() if self._last else None
        if kept is None:
            return None
        return default_collate(self._split.few(items))[0], Kept(kept.key, kept.rows[items])

    def turn_to(self, epoch: int) -> None:
        """Show the view of an epoch (0-based)."""
        self._split.turn_to(epoch)
        self._begins = True

    def _kept(self) -> Kept | None:
        if self._made is None or self._made[0] != self._split.view:
            self._made = None  # what is mapped is let go before the next is made
            self._made = self._split.view, self._prefix.of(self._split, self._images, self._batches)
        return self._made[1]


def _environment(device: torch.device) -> list[Any]:
    """What the last bits of a number may depend on, beside its operands."""
    where = (
        [torch.cuda.get_device_name(device), torch.version.cuda]
        if device.type == "cuda"
        else [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    )
    return [torch.__version__, timm.__version__, *where]


def _bits(x: Tensor) -> Bits:
    bits: Bits = x.contiguous().cpu().view(BITS[x.dtype.itemsize][0]).numpy()
    return bits
