"""What a surrogate of accuracy sees of a configuration: which blocks train, how many tokens each one sees, and how
its tensors are stored. Read off the tape, so that a new method needs nothing here.

What only changes where tensors are, or when they are computed (``checkpoint``, ``offload``), changes no accuracy, and
is left out: such configurations are one point for the surrogate, though they cost differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.prediction import geometry_of, tape_of

Floats = NDArray[np.float64]

STORING = 1
"""``Method.stage`` of methods that change how tensors are stored, and so the gradients."""


@dataclass(frozen=True)
class Profile:
    """One configuration.

    Attributes:
        trained: for each block, which share of its parameters trains.
        tokens: for each block, the binary logarithm of the share of all tokens that leaves it.
        fused: whether dropped tokens are fused into one.
        below: which share of the parameters below the blocks trains.
        stored: the methods that change how tensors are stored, as they are written.
        lr: natural logarithm of the learning rate over the recipe's own (0 where it is the recipe's).
        batch: binary logarithm of the images a step.
    """

    trained: tuple[float, ...]
    tokens: tuple[float, ...]
    fused: bool
    below: float
    stored: str
    lr: float
    batch: float


def profile(config: Config, lr: float) -> Profile:
    """The profile of a configuration.

    Args:
        lr: the recipe's own learning rate.
    """
    small = replace(config, batch_size=1, micro_batches=1, precision="fp32", device="cpu", attention="fused")
    rate = math.log(config.lr / lr) if config.lr is not None else 0.0
    parts = [p for p in _parts(config.how) if p.stage == STORING]
    seen = _seen(small.with_method(_without_storing(config.how)), geometry_of(small).depth)
    return Profile(*seen, "+".join(map(str, parts)), rate, math.log2(config.batch_size))


def _parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Composed) else (method,)


def _without_storing(method: Method) -> Method:
    """What decides which parameters train and which tokens stay."""
    parts = tuple(part for part in _parts(method) if part.stage < STORING)
    return Composed(parts).canonical(0) if len(parts) > 1 else parts[0] if parts else _full()


def _full() -> Method:
    from bsr_explorer.methods import parse_method

    return parse_method("full")


@lru_cache(maxsize=65536)
def _seen(config: Config, depth: int) -> tuple[tuple[float, ...], tuple[float, ...], bool, float]:
    tape = tape_of(config)
    sizes, trained = np.zeros(depth + 1), np.zeros(depth + 1)
    for p in tape.parameters.values():
        if p.block is not None or p.name.startswith(("patch_embed", "pos_embed", "cls_token")):
            place = depth if p.block is None else p.block
            sizes[place] += math.prod(p.shape)
            trained[place] += math.prod(p.shape) * p.trains
    first = next(tape.tensors[op.reads[0]] for op in tape.ops if op.block == 0)
    leaving = [first.shape[1]] * depth
    for op in tape.ops:
        if op.block is not None:
            leaving[op.block] = tape.tensors[op.writes].shape[1]
    shares = trained / np.maximum(sizes, 1)
    fused = any(op.kind == "drop_tokens" and op.attrs["fuse"] for op in tape.ops)
    logs = tuple(math.log2(tokens / first.shape[1]) for tokens in leaving)
    return tuple(map(float, shares[:depth])), logs, fused, float(shares[depth])


class Table:
    """Profiles as rows of numbers.

    Columns: ``trained`` (depth), ``tokens`` (depth), fused, below, lr, batch, and 1 in the column of how tensors are
    stored (one column a way).

    Args:
        stored: every way to store that may come up.
    """

    def __init__(self, depth: int, stored: Sequence[str]) -> None:
        self.depth, self.stored = depth, list(dict.fromkeys(["", *stored]))

    @property
    def width(self) -> int:
        """Columns."""
        return 2 * self.depth + 4 + len(self.stored)

    def row(self, profile: Profile) -> Floats:
        """(width,) numbers of one configuration."""
        ways = [float(profile.stored == way) for way in self.stored]
        rest = (float(profile.fused), profile.below, profile.lr, profile.batch)
        return np.array([*profile.trained, *profile.tokens, *rest, *ways])

    def rows(self, profiles: Sequence[Profile]) -> Floats:
        """(configurations, width)."""
        return np.stack([self.row(each) for each in profiles]) if profiles else np.zeros((0, self.width))
