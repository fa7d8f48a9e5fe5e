"""Methods that train a part of frozen weights: some columns, some rows, or some entries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import LAYERS, Adding, check_rank, linears, linears_in, whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.tape import Parameter, Shape, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry

INDEX = "index"
"""The buffer of a layer that says which columns, rows or entries train."""


@dataclass(frozen=True, eq=False, repr=False)
class Partial(Adding):
    """Of each chosen layer's weight (out, in) a part trains, and the head.

    It is a parameter of its own, and the forward pass writes it into the weight first; it computes what the layer
    computes.
    """

    part: ClassVar[str]
    """``columns``, ``rows`` or ``entries``."""

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Which linear layers: names of ``adding.LAYERS``."""

    @abstractmethod
    def count(self, name: str, weight: Shape, layer: str = "a layer") -> int:
        """How many columns, rows or entries of a weight train.

        Args:
            name: of its layer, in ``adding.LAYERS``.
            weight: its shape.
            layer: the layer's path, for what is said.

        Raises:
            UserError: it has fewer.
        """

    def is_own(self, parameter: str) -> bool:
        """Whether it holds the columns, rows or entries of a layer."""
        return parameter.endswith(f".{self.part}")

    def rewrite(self, tape: Tape) -> Tape:
        """Each chosen layer becomes one of which a part trains."""
        parameters, buffers = dict(tape.parameters), dict(tape.buffers)
        changed, names = {}, {path: name for name, path in LAYERS.items()}
        for op in linears(self, tape, self.layers):
            weight = tape.parameters[op.params["weight"]].shape
            count = self.count(names[tape.naming.in_block(op.name)], weight, op.name)
            own = Parameter(f"{op.name}.{self.part}", own_shape(self.part, weight, count), op.block)
            index = Parameter(f"{op.name}.{INDEX}", (count,), op.block, trains=False, dtype="int64")
            parameters[own.name], buffers[index.name] = own, index
            changed[op.name] = replace(op, kind="partial_linear", params={**op.params, self.part: own.name})
        ops = tuple(changed[op.name] if op.kind == "linear" and op.name in changed else op for op in tape)
        return self.train_own(replace(tape, ops=ops, parameters=parameters, buffers=buffers))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model.

        Raises:
            UserError: a weight that has fewer columns, rows or entries.
        """
        from bsr_explorer.methods.applied.partial import train_part_of

        for name in self.layers:
            for layer in linears_in(model, (name,)):
                self.count(name, tuple(layer.weight.shape))
        train_part_of(model, self.layers, self.count, self.part)
        return self.train_own_in(model)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What trained is written into the weights that it is of."""
        merged = dict(weights)
        for name in [name for name in weights if self.is_own(name)]:
            layer = name.removesuffix(f".{self.part}")
            index, own = merged.pop(f"{layer}.{INDEX}"), merged.pop(name)
            weight = weights[f"{layer}.weight"]
            dim = DIMS[self.part]
            lines = weight.flatten() if dim is None else weight
            merged[f"{layer}.weight"] = lines.index_copy(dim or 0, index, own).view(weight.shape)
        return merged


DIMS: dict[str, int | None] = {"columns": 1, "rows": 0, "entries": None}
"""Along which dimension of a weight each part is chosen; None: along both at once, as if the rows stood in one line."""


def own_shape(part: str, weight: Shape, count: int) -> Shape:
    """Of what trains of a weight (out, in): columns (out, count), rows (count, in), entries (count,)."""
    dim = DIMS[part]
    return (count,) if dim is None else (weight[0], count) if dim else (count, weight[1])


@dataclass(frozen=True, eq=False, repr=False)
class Lines(Partial):
    """Columns or rows train, which are drawn at random.

    Attributes:
        r: how many of each weight.
    """

    r: int = 8

    def __post_init__(self) -> None:
        whole_number(self, "r")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many."""
        return (Numbers("r", (2, 4, 8, 16)),)

    def count(self, name: str, weight: Shape, layer: str = "a layer") -> int:
        """See ``Partial``."""
        there = weight[DIMS[self.part] or 0]
        check_rank(self, layer, self.r, there, f"{there} {self.part}")
        return self.r
