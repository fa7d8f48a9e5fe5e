"""Methods that train a part of frozen weights: some columns, or some rows, drawn at random."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import Adding, check_rank, linears, linears_in, whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.tape import Parameter, Shape, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry

INDEX = "index"
"""The buffer of a layer that says which columns or rows train."""


@dataclass(frozen=True, eq=False, repr=False)
class Partial(Adding):
    """Of each chosen layer's weight (out, in), ``r`` columns or rows train, and the head.

    They are a parameter of their own, and the forward pass writes them into the weight first; it computes what the
    layer computes.

    Attributes:
        r: how many of each weight.
    """

    r: int = 8

    part: ClassVar[str]
    """``columns`` or ``rows``."""

    def __post_init__(self) -> None:
        whole_number(self, "r")

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Which linear layers: names of ``adding.LAYERS``."""

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many."""
        return (Numbers("r", (2, 4, 8, 16)),)

    def is_own(self, parameter: str) -> bool:
        """Whether it holds the columns or rows of a layer."""
        return parameter.endswith(f".{self.part}")

    @property
    def dim(self) -> int:
        """Along which dimension of a weight they are chosen."""
        return 1 if self.part == "columns" else 0

    def _shape(self, layer: str, weight: Shape) -> Shape:
        """Of what trains of a weight.

        Raises:
            UserError: it has fewer.
        """
        check_rank(self, layer, self.r, weight[self.dim], f"{weight[self.dim]} {self.part}")
        return (weight[0], self.r) if self.dim else (self.r, weight[1])

    def rewrite(self, tape: Tape) -> Tape:
        """Each chosen layer becomes one of which a part trains."""
        parameters, buffers = dict(tape.parameters), dict(tape.buffers)
        changed = {}
        for op in linears(self, tape, self.layers):
            shape = self._shape(op.name, tape.parameters[op.params["weight"]].shape)
            own = Parameter(f"{op.name}.{self.part}", shape, op.block)
            index = Parameter(f"{op.name}.{INDEX}", (self.r,), op.block, trains=False, dtype="int64")
            parameters[own.name], buffers[index.name] = own, index
            changed[op.name] = replace(op, kind="partial_linear", params={**op.params, self.part: own.name})
        ops = tuple(changed[op.name] if op.kind == "linear" and op.name in changed else op for op in tape)
        return self.train_own(replace(tape, ops=ops, parameters=parameters, buffers=buffers))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model.

        Raises:
            UserError: a weight that has fewer columns or rows.
        """
        from bsr_explorer.methods.applied.partial import train_part_of

        for layer in linears_in(model, self.layers):
            self._shape("a layer", tuple(layer.weight.shape))
        train_part_of(model, self.layers, self.r, self.part)
        return self.train_own_in(model)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Columns or rows are written into the weights that they are of."""
        merged = dict(weights)
        for name in [name for name in weights if self.is_own(name)]:
            layer = name.removesuffix(f".{self.part}")
            index, own = merged.pop(f"{layer}.{INDEX}"), merged.pop(name)
            merged[f"{layer}.weight"] = weights[f"{layer}.weight"].index_copy(self.dim, index, own)
        return merged
