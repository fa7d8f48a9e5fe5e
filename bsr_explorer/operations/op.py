"""What a tape is made of: tensors, parameters, and operations that read and write them. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bsr_explorer.storages.storage import DENSE, Shape, Storage
from bsr_explorer.units import WIDTH


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value on the tape.

    Attributes:
        storage: name of the tensor whose bytes this one shows: itself, unless it is a view. A view that
            is kept keeps the whole storage.
    """

    name: str
    shape: Shape
    storage: str
    dtype: str = "fp32"
    role: Literal["input", "activation"] = "activation"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return self.numel * WIDTH[self.dtype]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A weight of the model, under the name that it has in the model's state dict.

    Attributes:
        remembered: whether the optimiser keeps state of it though it does not train in this step: it did in another.
        used: whether the loss depends on it; if not, it has no gradient, and never trains.
    """

    name: str
    shape: Shape
    block: int | None
    trains: bool = True
    dtype: str = "fp32"
    remembered: bool = False
    used: bool = True

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the weight itself; its gradient takes as many."""
        return self.numel * WIDTH[self.dtype]

    @property
    def has_state(self) -> bool:
        """Whether the optimiser keeps state of it."""
        return self.trains or self.remembered


Part = Parameter | Tensor
"""What plays a part in an operation: a parameter, or a tensor that was made of one."""

EVERYTHING = "*"
"""In ``Op.stored``: whatever the operation keeps."""


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: the module path that runs it (``blocks.3.mlp.fc1``), so that a measurement can be compared
            operation by operation.
        kind: name of a kind of operation, a key of ``operations.KINDS``.
        block: 0-based block index, or None.
        reads: tensors, in the order that the kind's rule expects.
        writes: the tensor that it makes.
        params: by the part that they play (``{"weight": "head.weight"}``), parameters, or tensors that
            were made of parameters (a copy in another number format).
        attrs: numbers that the kind's rules need (heads, kept tokens, …). What is ``detached`` runs without a graph
            whatever it reads.
        stored: how a kept tensor is stored, by name, or ``EVERYTHING``; ``DENSE`` where nothing is said.
        segment: the recomputed segment that it belongs to, or nothing.
        part: the path beside the backbone that it belongs to, or nothing: the backbone.
        until: a module path: what it writes is held, by a list or the like, until the last operation within that
            module has run, whatever calls it is given to on the way. Nothing: Python's calls hold it.
        steady: whether it makes the same of the same in each step: not, if it draws at random or remembers.
        others: further tensors that it makes, if it makes several (``operations.call``).
    """

    name: str
    kind: str
    block: int | None
    reads: tuple[str, ...]
    writes: str
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[str, Storage] = field(default_factory=dict)
    segment: str = ""
    part: str = ""
    until: str = ""
    steady: bool = True
    others: tuple[str, ...] = ()

    def stores(self, tensor: str) -> Storage:
        """How it stores a tensor that it keeps."""
        return self.stored.get(tensor) or self.stored.get(EVERYTHING, DENSE)

    @property
    def packs(self) -> bool:
        """Whether it runs as a function that packs what it keeps."""
        return bool(self.stored) and any(how.packs for how in self.stored.values())
