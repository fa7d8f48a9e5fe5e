"""LoRA: beside frozen weights, updates of low rank train.

y = W·x + (alpha/r)·B·A·x, with A (r, in) and B (out, r). A starts as torch's linear layers do (Kaiming uniform,
a = √5) and B at zero, as in PEFT; names are PEFT's, too. The factor alpha/r is applied where the tensor is narrow,
between A and B. When training is over, W + (alpha/r)·B·A is the plain weight.

Few parameters train, but A keeps the layer's whole input for its gradient, and a gradient passes through all blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import (
    LAYERS,
    Adding,
    check_rank,
    checked_layers,
    linears,
    linears_in,
    whole_number,
)
from bsr_explorer.methods.arguments import quiet
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry

DOWN, UP = "lora_A", "lora_B"
"""What PEFT calls the two matrices."""


@dataclass(frozen=True, eq=False, repr=False)
class Lora(Adding):
    """The updates of chosen layers of all blocks, and the head, train.

    Attributes:
        r: rank of the updates.
        on: which linear layers get one: names of ``adding.LAYERS``.
        alpha: an update is scaled by alpha/r.
    """

    r: int = 8
    on: tuple[str, ...] = ("qkv",)
    alpha: float = quiet(8.0)

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "updates of low rank beside frozen linear layers train, and the head"
    citation: ClassVar[str] = "Hu et al., LoRA, ICLR 2022 (arXiv 2106.09685)"

    def __post_init__(self) -> None:
        whole_number(self, "r")
        object.__setattr__(self, "on", checked_layers(self.name, self.on))
        if (
            isinstance(self.alpha, bool)
            or not isinstance(self.alpha, (int, float))
            or not 0 < self.alpha < inf
        ):
            raise UserError(f"--method: {self.name}(alpha={self.alpha!r}): alpha must be a number above 0")
        object.__setattr__(self, "alpha", float(self.alpha))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks; and the layers that it stands beside by itself, or beside all of them."""
        return Numbers("r", (2, 4, 8, 16)), Choices("on", (("qkv",), tuple(LAYERS)))

    @property
    def scale(self) -> float:
        """The factor of an update."""
        return self.alpha / self.r

    def is_own(self, parameter: str) -> bool:
        """Whether it is one of an update's two matrices."""
        return is_update(parameter)

    def brings(self, parameter: str) -> bool:
        """The same."""
        return is_update(parameter)

    def rewrite(self, tape: Tape) -> Tape:
        """Beside each chosen layer: x → down → (scaled) → up, added to the layer's output."""
        parameters, beside = dict(tape.parameters), dict[str, list[Op]]()
        for op in linears(self, tape, self.on):
            out, width = tape.parameters[op.params["weight"]].shape
            check_rank(self, op.name, self.r, min(out, width), f"a matrix of {out} x {width}")
            new, beside[op.name] = self.beside(tape, op)
            parameters |= {p.name: p for p in new}
        return self.train_own(with_beside(tape, beside, parameters))

    def beside(self, tape: Tape, op: Op) -> tuple[list[Parameter], list[Op]]:
        """What stands beside a linear layer: parameters, and the operations that follow its own."""
        here, block = op.name, op.block
        out, width = tape.parameters[op.params["weight"]].shape
        down, up = f"{here}.{DOWN}.weight", f"{here}.{UP}.weight"
        parameters = [Parameter(down, (self.r, width), block), Parameter(up, (out, self.r), block)]
        ops = [Op(f"{here}.{DOWN}", "linear", block, op.reads, f"{here}.{DOWN}.out", {"weight": down})]
        if self.scale != 1:
            ops.append(Op(here, "times", block, (ops[-1].writes,), f"{here}.scaled"))
        ops.append(Op(f"{here}.{UP}", "linear", block, (ops[-1].writes,), f"{here}.{UP}.out", {"weight": up}))
        return parameters, [*ops, Op(here, "add", block, (op.writes, ops[-1].writes), f"{here}.sum")]

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model; an update begins at zero.

        Raises:
            UserError: a rank that a matrix does not have.
        """
        for layer in linears_in(model, self.on):
            out, width = layer.weight.shape
            check_rank(self, "a layer", self.r, min(out, width), f"a matrix of {out} x {width}")
            self.apply_to(layer)
        return self.train_own_in(model)

    def apply_to(self, layer: nn.Linear) -> None:
        """Let an update stand beside a linear layer, in place."""
        from bsr_explorer.methods.applied.lora import add_update

        add_update(layer, self.r, self.scale)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each update is added to the weight that it is of."""
        merged = {name: weight for name, weight in weights.items() if not is_update(name)}
        for name in weights:
            if name.endswith(f".{DOWN}.weight"):
                layer = name.removesuffix(f".{DOWN}.weight")
                update = weights[f"{layer}.{UP}.weight"] @ weights[name]
                merged[f"{layer}.weight"] = weights[f"{layer}.weight"] + self.scale * update
        return merged


def is_update(parameter: str) -> bool:
    """Whether a state-dict name is that of one of the two matrices."""
    return parameter.endswith((f".{DOWN}.weight", f".{UP}.weight"))


def with_beside(tape: Tape, beside: dict[str, list[Op]], parameters: Mapping[str, Parameter]) -> Tape:
    """A tape with other operations behind linear layers.

    Args:
        beside: operations by the name of the linear layer that they follow; what the last of them writes is read
            instead of the layer's output by all that comes later, and held as long as that was.
        parameters: all that it has then.
    """
    ops, instead, held = list[Op](), dict[str, str](), dict(tape.held)
    for op in tape:
        reads = tuple(instead.get(name, name) for name in op.reads)
        ops.append(op if reads == op.reads else replace(op, reads=reads))
        if op.kind == "linear" and op.name in beside:
            ops += [
                replace(new, reads=tuple(instead.get(name, name) for name in new.reads))
                for new in beside[op.name]
            ]
            last = instead[op.writes] = beside[op.name][-1].writes
            if op.writes in held:
                held |= {op.writes: last, last: held[op.writes]}
    return replace(tape, ops=tuple(ops), parameters=parameters, held=held)
