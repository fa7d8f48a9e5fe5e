"""Which of the first blocks training cannot change, and everything that their outputs depend on.

It is derived and never guessed. The tape says below which block nothing trains, and that nothing but its output goes
on. The model is then looked at: it runs on images of random numbers as it does in training, and what reaches each block
shows where gradients go, what is left to chance and what is remembered. Where the two contradict each other, or
something is not understood, no block counts as frozen.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.naming import blocks_of
from bsr_explorer.prefix.continued import Continued, Stage
from bsr_explorer.train.step import autocast, image_dtype

LOG = logging.getLogger(__name__)


def frozen_blocks(model: nn.Module, stages: Sequence[Stage], precision: str) -> int:
    """How many of the first blocks of a vision transformer nothing can change in training: neither they nor anything
    below them trains, remembers or draws. If the model is not as its tape says, it is 0, and the log says why.

    Args:
        model: ready to train; it is left as it was.
        stages: what stands below the blocks, and each block.
        precision: key of ``models.lowering.PRECISIONS``.
    """
    blocks = sum(1 for _ in takewhile(lambda stage: stage.frozen, stages)) - 1
    if blocks <= 0 or not architecture_of_model(model).continues:
        return 0
    doubt = _doubt(Continued(model, blocks), precision)
    if doubt is not None:
        LOG.warning("%d frozen blocks run again in each step: %s", blocks, doubt)
        return 0
    return blocks


# --- what a model does ----------------------------------------------------------------------------------


@dataclass
class _Pass:
    """What was seen of one pass through a model.

    Attributes:
        live: for each block, and for the norm after them, whether a gradient goes to what reaches it.
        reached: what the prefix made, (B, N, D).
        drew, remembers: whether the prefix drew random numbers, or changed a buffer or a weight.
        logits: (B, classes).
    """

    live: list[bool]
    reached: Tensor | None = None
    drew: bool = False
    remembers: bool = False
    logits: Tensor | None = None


def _doubt(continued: Continued, precision: str) -> str | None:
    """Why what the tape says of a model's first blocks cannot be relied on; None where it can."""
    model, blocks = continued.model, continued.blocks
    one, other = probe(continued, precision), probe(continued, precision, seed=1)
    device = one.device
    with _left_as_it_was(model, device) as restart, autocast(precision, device), torch.enable_grad():
        model.train()
        mine = _run(continued, one)
        if len(mine.live) != len(blocks_of(model)) + 1 or mine.reached is None:
            return "the model does not run its blocks one after the other, each once"
        frozen = sum(1 for _ in takewhile(lambda live: not live, mine.live)) - 1
        if frozen != blocks:
            return (
                f"the method's tape says that nothing trains below block {blocks}, and in the model gradients "
                f"end at block {max(frozen, 0)}"
            )
        if mine.drew:
            return "they, or what stands below them, are left to chance"
        if mine.remembers:
            return "they, or what stands below them, change their state in training"
        theirs = _run(continued, other)
        assert theirs.reached is not None
        if not torch.equal(_alone(continued, one, other), torch.stack([mine.reached[0], theirs.reached[1]])):
            return "what they make of an image in training does not follow from the image alone"
        restart()
        if not torch.equal(continued(mine.reached), cast(Tensor, mine.logits)):
            return "the model does not go on from their output alone"
    return None


def probe(continued: Continued, precision: str, seed: int = 0) -> Tensor:
    """Two images of random numbers, (2, 3, S, S), such as the model takes."""
    first = next(continued.model.parameters())
    size = cast(Any, continued.model).patch_embed.img_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    return images.to(first.device, image_dtype(precision))


def _run(continued: Continued, images: Tensor) -> _Pass:
    """The whole way, once."""
    model, seen = continued.model, _Pass([])
    before = _state(model, images.device)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(seen.live) == continued.blocks:
            random, remembered = _state(model, images.device)
            seen.reached = inputs[0].detach().clone()
            seen.drew = not _same(random, before[0])
            seen.remembers = not _same(remembered, before[1])
        seen.live.append(inputs[0].requires_grad)

    with ExitStack() as stack:
        for place in range(len(blocks_of(model)) + 1):
            hook = continued.after(place).register_forward_pre_hook(note, prepend=True)
            stack.callback(hook.remove)
        seen.logits = continued(images).detach()
    return seen


@torch.no_grad()
def _alone(continued: Continued, one: Tensor, other: Tensor) -> Tensor:
    """What the prefix makes, as it is kept, of the first image of one pair and the second of another."""
    continued.eval()
    made = continued.prefix(torch.stack([one[0], other[1]]))
    continued.train()
    return made


def _state(model: nn.Module, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """The state of torch's random generators, and what the model remembers."""
    random = [torch.get_rng_state()]
    if device.type == "cuda":
        random.append(torch.cuda.get_rng_state(device))
    versions = torch.tensor([p._version for p in model.parameters()])
    return random, [versions, *(buffer.clone() for buffer in model.buffers())]


def _same(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    """Whether all their bits are."""
    if len(these) != len(those):
        return False
    return all(torch.equal(raw(a), raw(b)) for a, b in zip(these, those, strict=True))


def raw(tensor: Tensor) -> Tensor:
    """All the bytes of a tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


@contextmanager
def _left_as_it_was(model: nn.Module, device: torch.device) -> Iterator[Callable[[], None]]:
    """Within it a model may run; then its buffers, its modes and torch's random generators are as before. Yields what
    makes them so at once."""
    modes = {module: module.training for module in model.modules()}
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    random, _ = _state(model, device)

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in kept:
                if buffer.shape != value.shape:  # it got its form meanwhile
                    buffer.resize_(value.shape)
                buffer.copy_(value)
        torch.set_rng_state(random[0])
        if len(random) > 1:
            torch.cuda.set_rng_state(random[1], device)

    try:
        yield restore
    finally:
        restore()
        for module, mode in modes.items():
            module.training = mode


# --- what it depends on ---------------------------------------------------------------------------------


class _Reading(TorchDispatchMode):
    """Notes the tensors that operations read and none of them made: weights, buffers, and whatever else there is.

    Args:
        given: what is fed in.

    Attributes:
        read: those tensors, in the order in which they were first read, each storage once.
    """

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self._made = {_storage(given)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note."""
        for tensor in _tensors((args, kwargs)):
            if _storage(tensor) not in self._made:
                self.read.setdefault(_storage(tensor), tensor)
        made = func(*args, **(kwargs or {}))
        self._made |= {_storage(tensor) for tensor in _tensors(made)} - self.read.keys()
        return made


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@torch.no_grad()
def hashes(continued: Continued, stages: Sequence[Stage], precision: str, about: str) -> Iterator[str]:
    """A name for what stands below the blocks, for the first block with it, the first two, … up to those of the
    prefix: equal where they make the same of the same, for it follows from all that they read, whatever its name."""
    training = continued.training
    x, found = probe(continued, precision), hashlib.sha256(about.encode())
    continued.eval()
    try:
        blocks = blocks_of(continued.model)[: continued.blocks]
        parts: list[Callable[[Tensor], Tensor]] = [continued.stem, *blocks]
        for stage, part in zip(stages, parts, strict=False):
            with autocast(precision, x.device), _Reading(x) as reading:
                x = part(x)
            found.update(stage.does.encode())
            for tensor in reading.read.values():
                content = raw(tensor).cpu().numpy()
                found.update(f"{tensor.dtype} {len(content)}".encode())
                found.update(content.data)
            yield found.copy().hexdigest()
    finally:
        continued.train(training)
