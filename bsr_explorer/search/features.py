"""What a surrogate of accuracy sees of a configuration: which blocks train and how, how many tokens each one sees, and
how its tensors are stored. Read off the tape, so that a new method needs nothing here.

What only changes where tensors are, or when they are computed (``checkpoint``, ``offload``), changes no accuracy, and
is left out: such configurations are one point for the surrogate, though they cost differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.methods import parse_method
from bsr_explorer.methods.axes import Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.composed import Composed, parts_of
from bsr_explorer.prediction import geometry_of, tape_of
from bsr_explorer.tape import Parameter, Tape

Floats = NDArray[np.float64]

Orders = Mapping[tuple[str, str], Numbers]
"""Ordered arguments of methods, by the method's name and the argument's."""

STORING = 1
"""``Method.stage`` of methods that change how tensors are stored, and so the gradients."""


@dataclass(frozen=True)
class Profile:
    """One configuration.

    Attributes:
        trained: for each block, which share of its parameters trains, those that a method adds among them.
        tokens: for each block, the binary logarithm of the share of all tokens that leaves it.
        fused: whether dropped tokens are fused into one.
        below: which share of the parameters below the blocks trains.
        stored: the methods that change how tensors are stored, as they are written.
        lr: natural logarithm of the learning rate over the recipe's own (0 where it is the recipe's).
        batch: binary logarithm of the images a step.
        scored: the kind of operation whose scores tokens are dropped by, if it is not class attention.
        partly: what trains where not all does (biases, adapters): the parameters' names within their block.
        places: of each ordered argument, where its value stands among those that it may have, from 0 to 1.
    """

    trained: tuple[float, ...]
    tokens: tuple[float, ...]
    fused: bool
    below: float
    stored: str
    lr: float
    batch: float
    partly: str = ""
    scored: str = ""
    places: tuple[float, ...] = ()


def profile(config: Config, lr: float, orders: Orders | None = None) -> Profile:
    """The profile of a configuration.

    Args:
        lr: the recipe's own learning rate.
        orders: arguments of what is ``stored`` that are seen as ordered numbers, and not as a part of its name.
    """
    small = replace(
        config, batch_size=1, micro_batches=1, precision="fp32", device="cpu", gpu=None, attention="fused"
    )
    rate = math.log(config.lr / lr) if config.lr is not None else 0.0
    parts = [p for p in parts_of(config.how) if p.stage == STORING]
    places = {}
    for (name, argument), axis in (orders or {}).items():
        value: Any = next((getattr(part, argument) for part in parts if part.name == name), None)
        known = value in axis.among
        places[name, argument] = axis.place(value) if known else 0.0
        if known:
            parts = [replace(p, **{argument: axis.among[0]}) if p.name == name else p for p in parts]
    depth = geometry_of(small).depth
    seen = _seen(replace(small.with_method(_without_storing(config.how, depth)), lr=None), depth)
    return Profile(
        seen.trained,
        seen.tokens,
        seen.fused,
        seen.below,
        "+".join(map(str, parts)),
        rate,
        math.log2(config.batch_size),
        seen.partly,
        seen.scored,
        tuple(places.values()),
    )


def _without_storing(method: Method, depth: int) -> Method:
    """What decides which parameters train and which tokens stay."""
    parts = tuple(part for part in parts_of(method) if part.stage < STORING)
    return Composed(parts).canonical(depth) if len(parts) > 1 else parts[0] if parts else parse_method("full")


@dataclass(frozen=True)
class _Seen:
    """What the tape alone says: see ``Profile``."""

    trained: tuple[float, ...]
    tokens: tuple[float, ...]
    fused: bool
    below: float
    partly: str
    scored: str


@lru_cache(maxsize=65536)
def _seen(config: Config, depth: int) -> _Seen:
    tape = tape_of(config)
    below = _below(tape)
    sizes, trained = np.zeros(depth + 1), np.zeros(depth + 1)
    places: dict[int, list[Parameter]] = {}
    for p in tape.parameters.values():
        place = depth if p.name in below else p.block
        if place is not None:
            sizes[place] += math.prod(p.shape)
            trained[place] += math.prod(p.shape) * p.trains
            places.setdefault(place, []).append(p)
        elif p.trains and not (tape.naming.is_head(p.name) or tape.naming.is_final_norm(p.name)):
            places.setdefault(depth + 1, []).append(p)  # beside the backbone
    shares = trained / np.maximum(sizes, 1)
    whole = {place for place in range(depth + 1) if shares[place] in (0, 1)}
    partly = {
        tape.naming.in_block(p.name)
        for place, parameters in places.items()
        if place not in whole
        for p in parameters
        if p.trains
    }
    first = next(tape.tensors[op.reads[0]] for op in tape.backbone if op.block == 0)
    leaving = [first.shape[1]] * depth
    for op in tape.backbone:
        if op.block is not None and len(shape := tape.tensors[op.writes].shape) == 3:
            leaving[op.block] = shape[1]
    drops = [op for op in tape.ops if op.kind == "drop_tokens"]
    traced = tape.drops.values()  # of which no operation is a drop
    fused = any(op.attrs["fuse"] for op in drops) or any(each.fuse for each in traced)
    scores = {op.reads[1] for op in drops}
    scored = {op.kind for op in tape.ops if op.writes in scores} | {each.criterion for each in traced}
    scored -= {"class_attention"}
    logs = tuple(math.log2(tokens / first.shape[1]) for tokens in leaving)
    return _Seen(
        tuple(map(float, shares[:depth])),
        logs,
        fused,
        float(shares[depth]),
        " ".join(sorted(partly)),
        " ".join(sorted(scored)),
    )


def _below(tape: Tape) -> set[str]:
    """Parameters that operations below the blocks use."""
    stem = itertools.takewhile(lambda op: op.block is None, tape.ops)
    return {name for op in stem for name in op.params.values()} & tape.parameters.keys()


class Table:
    """Profiles as rows of numbers.

    Columns: ``trained`` (depth), ``tokens`` (depth), fused, below, lr, batch; 1 in the column of how tensors are stored
    (one column a way); 1 in the column of what trains where not all does (one a way; none where all or nothing does);
    1 in that of how tokens are scored (one a way; none where it is by class attention); and ``places``.

    Args:
        profiles: of everything that may come up in another way to store, or to train parts.
    """

    def __init__(self, depth: int, profiles: Sequence[Profile]) -> None:
        self.depth = depth
        self.stored = list(dict.fromkeys(["", *(each.stored for each in profiles)]))
        self.partly = [way for way in dict.fromkeys(each.partly for each in profiles) if way]
        self.scored = [way for way in dict.fromkeys(each.scored for each in profiles) if way]
        self.places = max((len(each.places) for each in profiles), default=0)

    @property
    def width(self) -> int:
        """Columns."""
        return 2 * self.depth + 4 + len(self.stored) + len(self.partly) + len(self.scored) + self.places

    @property
    def lr(self) -> int:
        """The column of the learning rate; that of the batch size is the next."""
        return 2 * self.depth + 2

    def row(self, profile: Profile) -> Floats:
        """(width,) numbers of one configuration."""
        ways = [float(profile.stored == way) for way in self.stored]
        ways += [float(profile.partly == way) for way in self.partly]
        ways += [float(profile.scored == way) for way in self.scored]
        rest = (float(profile.fused), profile.below, profile.lr, profile.batch)
        return np.array([*profile.trained, *profile.tokens, *rest, *ways, *profile.places])

    def rows(self, profiles: Sequence[Profile]) -> Floats:
        """(configurations, width)."""
        return np.stack([self.row(each) for each in profiles]) if profiles else np.zeros((0, self.width))
