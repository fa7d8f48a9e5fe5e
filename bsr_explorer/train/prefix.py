"""What the first blocks of a model make of images, made once: those that nothing can change in training (``frozen``).

Trainings that share these blocks, and what they do, share their outputs, which lie in memory-mapped files: a file
for the images of one part of the data in one view. Its name is a hash of all that its content follows from
(weights, operations, images, number format, versions, the images that pass at once). The outputs are those of the
whole model to the last bit: they are made in passes of as many images, it is tried first whether an image comes
out the same wherever among them it stands, and the first batch of each epoch and of each evaluation (of every
``OFTEN`` batches, where these are fewer) goes the whole way and is compared with what is kept. Where they differ before
any step went by them, or they cannot be kept, training goes on with images; where they differ later, it has to begin
again without them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import timm
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from bsr_explorer import interrupt
from bsr_explorer.files import whole
from bsr_explorer.train.data import ImageSplit
from bsr_explorer.train.datasets import default_data_dir
from bsr_explorer.train.frozen import Continued, Stage, frozen_blocks, hashes
from bsr_explorer.train.step import autocast, image_dtype
from bsr_explorer.units import format_bytes

LOG = logging.getLogger(__name__)

Bits = NDArray[Any]
"""Numbers of any format, as whole numbers of the same width: equal if all their bits are."""

_BITS: dict[int, tuple[torch.dtype, type[np.generic]]] = {
    4: (torch.int32, np.int32),
    2: (torch.int16, np.int16),
}


# --- files ----------------------------------------------------------------------------------------------


def default_folder() -> Path:
    """``$BSR_EXPLORER_CACHE``, or else ``prefixes`` beside the folder of the data sets."""
    return Path(os.environ.get("BSR_EXPLORER_CACHE") or default_data_dir().parent / "prefixes").expanduser()


@dataclass(frozen=True)
class Cache:
    """A folder of arrays that may be lost at any time; many processes may use it at once.

    Attributes:
        folder: where they lie.
        most_bytes: that they may take together. What was not used for longest goes first.
    """

    folder: Path = field(default_factory=default_folder)
    most_bytes: int = 4 * 10**9

    def find(self, key: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Bits | None:
        """The array of this key, shape and type, mapped into memory and not to be written to; None if there is
        none, or if the file is another's or torn."""
        path = self.folder / f"{key}.npy"
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if (found.shape, found.dtype) != (shape, np.dtype(dtype)):
                return None
            if path.stat().st_size != found.offset + found.nbytes:
                return None
        except (OSError, ValueError, EOFError):
            return None
        with suppress(OSError):  # where nothing may be written, there is something to read
            os.utime(path)  # used last now
        return cast(Bits, found)

    def forget(self, key: str) -> None:
        """Remove the array of a key, which turned out to be wrong."""
        with suppress(OSError):
            (self.folder / f"{key}.npy").unlink(missing_ok=True)

    def get(
        self, key: str, shape: tuple[int, ...], dtype: type[np.generic], make: Callable[[], Iterator[Bits]]
    ) -> Bits | None:
        """The array of a key, made now if it is not there; None if it cannot be kept.

        While one process makes it, others that want it wait.

        Args:
            make: its parts, in order.
        """
        if (found := self.find(key, shape, dtype)) is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(key), ExitStack() as stack:
                if (found := self.find(key, shape, dtype)) is not None:
                    return found
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                with self._lock("room"):
                    if not self._make_room(key, size):
                        return None
                    file = stack.enter_context(whole(self.folder / f"{key}.npy"))
                    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.truncate(file.tell() + size)  # others see how much room it will take
                for part in make():
                    file.write(np.ascontiguousarray(part).data)
            return self.find(key, shape, dtype)
        except OSError as error:
            LOG.warning(
                "%s: frozen blocks run again in each step, for nothing can be kept (%s)", self.folder, error
            )
            return None

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", timeout=timeout)

    def _make_room(self, mine: str, size: int) -> bool:
        """Remove what was not used for longest until so many bytes more are within the bound, and on the disk."""
        if size > self.most_bytes:
            LOG.warning(
                "%s: frozen blocks run again in each step, for what they make takes %s, and the most is %s",
                self.folder,
                format_bytes(size),
                format_bytes(self.most_bytes),
            )
            return False
        for left in self.folder.glob(".*.npy.*.tmp"):
            key = left.name.split(".")[1]
            with suppress(Timeout), ExitStack() as stack:
                if key != mine:  # whose lock is held
                    stack.enter_context(self._lock(key, timeout=0))
                left.unlink(missing_ok=True)  # by a process that was killed
        kept = sorted((seen.st_mtime, seen.st_size, path) for path, seen in self._files())
        taken = sum(bytes_ for _, bytes_, _ in kept)
        for _, bytes_, path in kept:
            if taken + size <= self.most_bytes and shutil.disk_usage(self.folder).free > size:
                break
            if path.suffix == ".npy":
                path.unlink(missing_ok=True)
                taken -= bytes_
        return taken + size <= self.most_bytes and shutil.disk_usage(self.folder).free > size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in (*self.folder.glob("*.npy"), *self.folder.glob(".*.npy.*.tmp")):
            with suppress(FileNotFoundError):
                yield path, path.stat()


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
        self._tried: dict[int, bool] = {}
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
        bits = _BITS[self._dtype.itemsize][1]
        if (found := self._cache.find(names[-1], shapes[self.blocks], bits)) is not None:
            return Kept(names[-1], found)
        if not batches and not self._steady(images):
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

    @torch.no_grad()
    def _steady(self, images: int) -> bool:
        """Whether an image comes out the same, to the last bit, wherever in a batch it stands. Most kernels see to
        that; some do not for few tokens or images. One block of each shape is tried, on random numbers, and the
        products around an explicit softmax apart, for a block may round their differences away."""
        if images not in self._tried:
            vit = cast(Any, self.model.model)
            shapes = [(3, *vit.patch_embed.img_size), *(stage.shape for stage in self._stages)]
            parts: dict[Any, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {}
            parts[None] = shapes[0], self.model.stem
            for block, shape, makes in zip(vit.blocks[: self.blocks], shapes[1:], shapes[2:], strict=False):
                parts[shape, makes] = shape, block
                if not block.attn.fused_attn:
                    parts[shape] = (
                        (3, block.attn.num_heads, shape[0], shape[1] // block.attn.num_heads),
                        _attended,
                    )
            self._tried[images] = all(
                self._gives_the_same(part, images, shape) for shape, part in parts.values()
            )
        return self._tried[images]

    def _gives_the_same(self, part: Callable[[Tensor], Tensor], images: int, shape: tuple[int, ...]) -> bool:
        random = torch.Generator().manual_seed(0)
        # What a block adds to its input is not to vanish beside it.
        size = 1.0 if part is _attended else 0.02
        x = size * torch.randn(images, *shape, generator=random).to(self._device, self._dtype)
        with autocast(self._precision, self._device):
            made = part(x)
            orders = (torch.randperm(images, generator=random).to(self._device) for _ in range(4))
            return all(torch.equal(part(x[order]), made[order]) for order in orders)

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


def _attended(qkv: Tensor) -> Tensor:
    """Attention with an explicit softmax, of (B, 3, H, N, d)."""
    q, k, v = qkv.unbind(1)
    attended: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return attended


def _environment(device: torch.device) -> list[Any]:
    """What the last bits of a number may depend on, beside its operands."""
    where = (
        [torch.cuda.get_device_name(device), torch.version.cuda]
        if device.type == "cuda"
        else [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    )
    return [torch.__version__, timm.__version__, *where]


def _bits(x: Tensor) -> Bits:
    bits: Bits = x.contiguous().cpu().view(_BITS[x.dtype.itemsize][0]).numpy()
    return bits
