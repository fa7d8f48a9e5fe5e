"""Optimisers: the state that they keep, and what a step of theirs allocates on the way.

Read in ``torch.optim`` (2.11 to 2.15) and compared with the allocator's record of real steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bsr_explorer.tape import Parameter
from bsr_explorer.units import WIDTH

IMPLEMENTATIONS = ("auto", "loop", "foreach", "fused")
"""How torch runs an optimiser: ``loop`` parameter by parameter, ``foreach`` on lists of them, ``fused`` in
one kernel; ``auto`` is what torch does by itself: foreach on CUDA, else loop."""

Change = tuple[int, str]
"""Bytes allocated (> 0) or freed (< 0), and a name for them."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """The memory of one optimiser."""

    @abstractmethod
    def state_bytes(self, p: Parameter) -> int:
        """Bytes kept from step to step for a parameter."""

    def state_sizes(self, p: Parameter, implementation: str, number: int) -> list[int]:
        """The same by tensors of the device, in the order in which they are made; for the arguments see ``step``."""
        return [self.state_bytes(p)] if self.state_bytes(p) else []

    def shared_bytes(self, trained: Sequence[Parameter]) -> int:
        """Bytes kept from step to step for all parameters together."""
        return 0

    @abstractmethod
    def step(self, trained: Sequence[Parameter], implementation: str, number: int) -> Iterator[Change]:
        """What a step allocates and frees, in order.

        Args:
            trained: the parameters of one parameter group, in order.
            implementation: ``loop``, ``foreach`` or ``fused``.
            number: bytes of a Python number that a kernel is given as a tensor (``Device.number``).
        """


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Stochastic gradient descent without weight decay: all in place."""

    momentum: bool

    def state_bytes(self, p: Parameter) -> int:
        """A momentum buffer, or nothing."""
        return p.bytes if self.momentum else 0

    def step(self, trained: Sequence[Parameter], implementation: str, number: int) -> Iterator[Change]:
        """A loop makes a tensor of the momentum, a Python number; else nothing."""
        if self.momentum and implementation == "loop" and trained and number:
            yield number, "momentum"
            yield -number, "momentum"


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW with two moments in the parameter's own format, and an fp32 step count each."""

    def state_bytes(self, p: Parameter) -> int:
        """Two moments and the count."""
        return 2 * p.bytes + WIDTH["fp32"]

    def state_sizes(self, p: Parameter, implementation: str, number: int) -> list[int]:
        """The count lies where Python's numbers do, unless the implementation is fused."""
        here = number or implementation == "fused"
        return [*([WIDTH["fp32"]] if here else []), p.bytes, p.bytes]

    def step(self, trained: Sequence[Parameter], implementation: str, number: int) -> Iterator[Change]:
        """The denominator: its root, then the root over a bias correction; a loop's variable holds each
        until the next takes its place. Lists have one denominator for all parameters at once."""
        if implementation == "foreach":
            yield from ((p.bytes, f"denominator of {p.name}") for p in trained)
            if number:
                yield number, "correction"
                yield -number, "correction"
            yield from ((-p.bytes, f"denominator of {p.name}") for p in reversed(trained))
        if implementation != "loop":
            return
        before: Parameter | None = None
        for p in trained:
            yield p.bytes, f"root for {p.name}"
            if number:
                yield number, "correction"
            yield p.bytes, f"denominator of {p.name}"
            if number:
                yield -number, "correction"
            yield -p.bytes, f"root for {p.name}"
            if before is not None:
                yield -before.bytes, f"denominator of {before.name}"
            before = p
        if before is not None:
            yield -before.bytes, f"denominator of {before.name}"


@dataclass(frozen=True)
class AdamW8bit(Optimizer):
    """AdamW with its moments in 8 bits, as bitsandbytes 0.50 has it (arXiv 2110.02861).

    Moments of 4096 elements and more are codes with one fp32 scale each 256; smaller ones are fp32. Two
    code maps are shared by all parameters. The step of its CPU library computes in copies of one parameter
    after another; the CUDA kernel works in place ([schema], not measured).
    """

    def state_bytes(self, p: Parameter) -> int:
        """Two moments."""
        if p.numel < _LEAST_IN_8_BITS:
            return 2 * p.numel * WIDTH["fp32"]
        return 2 * p.numel + 2 * WIDTH["fp32"] * -(-p.numel // 256)

    def shared_bytes(self, trained: Sequence[Parameter]) -> int:
        """Two maps of 256 codes."""
        return 2 * 256 * WIDTH["fp32"]

    def step(self, trained: Sequence[Parameter], implementation: str, number: int) -> Iterator[Change]:
        """Copies of the gradient, the moments and what is made of them, parameter by parameter."""
        if implementation == "fused":
            return
        for p in trained:
            copies = 12 if p.numel < _LEAST_IN_8_BITS else 20
            size = copies * p.numel + (4 * p.numel if WIDTH[p.dtype] < 4 else 0) + number
            yield size, f"copies for {p.name}"
            yield -size, f"copies for {p.name}"


_LEAST_IN_8_BITS = 4096

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(momentum=False),
    "sgd_momentum": Sgd(momentum=True),
    "adamw": AdamW(),
    "adamw_8bit": AdamW8bit(),
}


EMBEDDINGS = ("pos_embed", "cls_token", "reg_token")
"""What timm calls parameters that are not decayed for all their dimensions."""


def groups(trained: Sequence[Parameter], embeddings: Collection[str] = EMBEDDINGS) -> list[list[Parameter]]:
    """The parameter groups that a recipe makes, that of the first parameter first: weights that are decayed, and
    vectors that are not.

    Args:
        embeddings: names of those that are not, for all their dimensions (``Naming.embeddings``).
    """
    found: dict[bool, list[Parameter]] = {}
    for p in trained:
        found.setdefault(len(p.shape) > 1 and p.name not in embeddings, []).append(p)
    return [*found.values()]
