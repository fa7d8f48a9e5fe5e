"""What the first blocks of a model make of images, made once: below the lowest trained parameter nothing changes.

Trainings that share these blocks, and what they do, share their outputs, which lie in memory-mapped files: a file
for the images of one part of the data in one view. Its name is a hash of all that its content follows from
(weights, operations, images, number format, versions, the images that pass at once). The outputs are those of the
whole model to the last bit: they are made in passes of as many images, it is tried first whether an image comes
out the same wherever among them it stands, and the first batch of a training, which goes the whole way, is compared
with what is kept. Where they differ, or cannot be kept, training goes on with images.
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
from typing import Any, cast

import numpy as np
import timm
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from bsr_explorer.files import whole
from bsr_explorer.train.data import ImageSplit
from bsr_explorer.train.datasets import default_data_dir
from bsr_explorer.train.loop import layer_of
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


@dataclass(frozen=True)
class Stage:
    """What stands below the blocks, or a block: what it does to an image.

    Attributes:
        does: equal where the same is done to the same with the same weights.
        shape: of what it makes of an image, (tokens, channels).
    """

    does: str
    shape: tuple[int, ...]


def frozen_blocks(model: nn.Module) -> int:
    """How many of the first blocks of a vision transformer nothing can change in training: neither they nor
    anything below them trains."""
    depth = len(model.blocks)  # type: ignore[arg-type]
    lowest = min(layer_of(name, depth) for name, p in model.named_parameters() if p.requires_grad)
    return max(0, lowest - 1)


class Continued(nn.Module):
    """A vision transformer that takes images, or what its first blocks have made of them.

    Attributes:
        model: a timm vision transformer.
        blocks: how many blocks are behind what is no image.
    """

    def __init__(self, model: nn.Module, blocks: int) -> None:
        super().__init__()
        self.model, self.blocks = model, blocks

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) or tokens (B, N, D) → (B, classes)."""
        vit = cast(Any, self.model)
        if x.dim() == 4:
            return cast(Tensor, vit(x))
        for block in vit.blocks[self.blocks :]:
            x = block(x)
        return cast(Tensor, vit.forward_head(vit.norm(x)))

    def stem(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) → (B, N, D), what stands below the blocks."""
        vit = cast(Any, self.model)
        return cast(Tensor, vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))))

    def prefix(self, x: Tensor, done: int | None = None) -> Tensor:
        """Images (B, 3, S, S), or tokens (B, N, D) that some blocks are done with → (B, N, D)."""
        x = self.stem(x) if done is None else x
        for block in cast(Any, self.model).blocks[done or 0 : self.blocks]:
            x = block(x)
        return x


class Prefix:
    """The blocks of a model that nothing can change in one training, and what they make of images.

    Args:
        model: ready to train.
        stages: what stands below the blocks, and each block, does.
        cache: where its outputs lie.
        precision: key of ``models.lowering.PRECISIONS``.
        name: of the model; the same is computed by models of the same name.

    Attributes:
        model: to be trained in the model's place.
        blocks: how many; 0 if there is nothing that could be made once.
        used: whether any batch went the short way.
    """

    used = False

    def __init__(
        self, model: nn.Module, stages: Sequence[Stage], cache: Cache, precision: str, name: str
    ) -> None:
        self.blocks = 0 if _draws(model) else frozen_blocks(model)
        self.model = Continued(model, self.blocks)
        self._stages, self._cache, self._precision = stages, cache, precision
        self._device = next(model.parameters()).device
        self._dtype = image_dtype(precision)
        about = json.dumps([name, precision, _environment(self._device)])
        self._keys = list(self._hashes(about)) if self.blocks else []
        self._sound = self.blocks > 0
        self._expected: Bits | None = None
        self._seen: list[Bits] = []
        self._watching: Any = None
        self._doubted = ""
        self._tried: dict[int, bool] = {}

    def part(
        self, split: ImageSplit, images: int, batches: bool, whole: Callable[[], bool] = lambda: False
    ) -> Prefixed:
        """A part of the data for the model.

        Args:
            images: that pass at once.
            batches: whether they always pass in this order, and so many of them (the last ones may be fewer).
            whole: asked before each batch, whether it shall go the whole way.
        """
        return Prefixed(self, split, images, batches, whole)

    def of(self, split: ImageSplit, images: int, batches: bool) -> Bits | None:
        """What the prefix makes of the present view of a split, (images, N, D); None if it is not to be had."""
        names = self._names(split, images, batches)
        shapes = [(len(split), *stage.shape) for stage in self._stages]
        bits = _BITS[self._dtype.itemsize][1]
        if (found := self._cache.find(names[-1], shapes[self.blocks], bits)) is not None:
            return found
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

        return self._cache.get(names[-1], shapes[self.blocks], bits, make)

    def tensor(self, rows: Bits) -> Tensor:
        """Bits as numbers."""
        return torch.from_numpy(rows).view(self._dtype)

    def _names(self, split: ImageSplit, images: int, batches: bool) -> list[str]:
        """Of what stands below the blocks, and of the first block with it, the first two, … make of a split."""
        about = json.dumps([split.identity(), images, batches])
        return [hashlib.sha256(f"{key} {about}".encode()).hexdigest()[:32] for key in self._keys]

    def expect(self, rows: Bits, split: ImageSplit, images: int, batches: bool) -> None:
        """The next step goes the whole way: note what the prefix makes in the first one that does."""
        if self._watching is None:
            self._doubted = self._names(split, images, batches)[-1]
            vit = cast(Any, self.model.model)
            after = vit.blocks[self.blocks] if self.blocks < len(vit.blocks) else vit.norm
            self._watching = after.register_forward_pre_hook(self._note)
            self._expected = rows

    def sound(self) -> bool:
        """Whether what was kept is what the prefix makes, to the last bit, as far as that was seen."""
        if self._expected is not None and self._seen:
            expected, self._expected = self._expected, None
            self._watching.remove()
            made, self._seen = np.concatenate(self._seen), []
            self._sound = np.array_equal(made, expected)
            if not self._sound:
                self._cache.forget(self._doubted)
                LOG.warning(
                    "%d frozen blocks run again in each step: what they make of images is not what they made of "
                    "them before, to the last bit",
                    self.blocks,
                )
        return self._sound

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A copy outside of torch's memory, which is being measured.
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

    @torch.no_grad()
    def _made(
        self, split: ImageSplit, images: int, batches: bool, done: int | None, found: Bits | None
    ) -> Iterator[Bits]:
        training = self.model.training
        self.model.eval()
        try:
            for first in range(0, len(split), images):
                items = list(range(first, min(first + images, len(split))))
                count = len(items)
                if not batches:  # all passes are as large, for kernels may differ by size
                    items = [item % len(split) for item in range(first, first + images)]
                x = (
                    default_collate(split.__getitems__(items))[0]
                    if found is None
                    else self.tensor(found[items])
                )
                with autocast(self._precision, self._device):
                    made = self.model.prefix(x.to(self._device, self._dtype), done)
                yield _bits(made[:count])
        finally:
            self.model.train(training)

    def _hashes(self, about: str) -> Iterator[str]:
        """A name for what stands below the blocks, and for the first block with it, the first two, …"""
        depth = len(self._stages) - 1
        state: list[list[tuple[str, Tensor]]] = [[] for _ in range(depth + 2)]
        for name, p in self.model.model.named_parameters():
            state[layer_of(name, depth)].append((name, p))
        for name, buffer in self.model.model.named_buffers():
            if not bool(buffer.isnan().all()):  # what a keeper has not seen yet says nothing
                state[layer_of(name, depth)].append((name, buffer))
        found = hashlib.sha256(about.encode())
        for stage, tensors in zip(self._stages, state[: self.blocks + 1], strict=False):
            found.update(stage.does.encode())
            for name, tensor in tensors:
                found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            yield found.copy().hexdigest()


class Prefixed(Dataset[tuple[Tensor, int]]):
    """A part of the data, as what a prefix makes of it where that can be had, else as images.

    Items are tokens (N, D), or a normalised image (3, S, S), and a label.
    """

    def __init__(
        self, prefix: Prefix, split: ImageSplit, images: int, batches: bool, whole: Callable[[], bool]
    ) -> None:
        self._prefix, self._split, self._whole = prefix, split, whole
        self._how = images, batches
        self._made: tuple[int, Bits | None] | None = None

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[int]) -> list[tuple[Tensor, int]]:
        """The items of one batch."""
        rows = None
        if self._split.views is not None and self._prefix.sound():
            rows = self._rows(items)
        if rows is None:
            return self._split.__getitems__(items)
        if self._whole():
            self._prefix.expect(rows, self._split, *self._how)
            return self._split.few(items)
        self._prefix.used = True
        return list(zip(self._prefix.tensor(rows), self._split.labels[items].tolist(), strict=True))

    def turn_to(self, epoch: int) -> None:
        """Show the view of an epoch (0-based)."""
        self._split.turn_to(epoch)

    def _rows(self, items: list[int]) -> Bits | None:
        if self._made is None or self._made[0] != self._split.view:
            self._made = None  # what is mapped is let go before the next is made
            self._made = self._split.view, self._prefix.of(self._split, *self._how)
        made = self._made[1]
        return None if made is None else made[items]


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


def _draws(model: nn.Module) -> bool:
    """Whether something in it is left to chance in training."""
    return any(getattr(m, name, 0.0) for m in model.modules() for name in ("p", "drop_prob"))


def _bits(x: Tensor) -> Bits:
    bits: Bits = x.contiguous().cpu().view(_BITS[x.dtype.itemsize][0]).numpy()
    return bits
