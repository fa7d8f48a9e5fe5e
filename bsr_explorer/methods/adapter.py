"""Adapters: small bottleneck MLPs within frozen blocks train.

An adapter is x → up(GELU(down(x))), with biases; ``up`` starts at zero. Serial ones stand behind the attention and
behind the MLP of each block, before the residual sum (Houlsby et al.); parallel ones beside each MLP, whose input they
read, scaled (AdaptFormer; its non-linearity is ReLU). They cannot be merged, and stay when training is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.adding import Adding, linears, whole_number
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.methods.lora import with_beside
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

MODES = ("serial", "parallel")

ADAPTER = "adapter"
"""The name of an adapter within the layer that it stands behind, or beside."""


@dataclass(frozen=True, eq=False, repr=False)
class Adapter(Adding):
    """The adapters, and the head, train.

    Attributes:
        width: of a bottleneck.
        mode: ``serial`` or ``parallel``.
        scale: a factor of what an adapter adds. Left out: 1 if serial, 0.1 (AdaptFormer's) if parallel.
    """

    width: int = 64
    mode: str = "serial"
    scale: float | None = None

    name: ClassVar[str] = "adapter"
    summary: ClassVar[str] = "bottlenecks within frozen blocks train, and the head"
    citation: ClassVar[str] = (
        "Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019 (arXiv 1902.00751); Chen et al., "
        "AdaptFormer, NeurIPS 2022 (arXiv 2205.13535)"
    )

    def __post_init__(self) -> None:
        whole_number(self, "width")
        if self.mode not in MODES:
            raise unknown("--method: adapter(mode=…)", self.mode, MODES)
        if self.scale is None:
            object.__setattr__(self, "scale", 1.0 if self.mode == "serial" else 0.1)
        if (
            isinstance(self.scale, bool)
            or not isinstance(self.scale, (int, float))
            or not 0 < self.scale < inf
        ):
            raise UserError(f"--method: adapter(scale={self.scale!r}): scale must be a number above 0")
        object.__setattr__(self, "scale", float(self.scale))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Widths and modes; the scale follows from the mode, if a study names none."""
        return Numbers("width", (8, 16, 32, 64)), Choices("mode", MODES), Choices("scale", (None,))

    def is_own(self, parameter: str) -> bool:
        """Whether it is an adapter's."""
        return f".{ADAPTER}." in parameter

    def rewrite(self, tape: Tape) -> Tape:
        """Each adapter reads what its layer writes, or the MLP's input, and is added to what the layer writes."""
        parameters, beside = dict(tape.parameters), dict[str, list[Op]]()
        read = {op.name: op.reads[0] for op in linears(self, tape, ("fc1",))}
        for op in linears(self, tape, ("proj", "fc2") if self.mode == "serial" else ("fc2",)):
            out = tape.parameters[op.params["weight"]].shape[0]
            here, block = f"{op.name}.{ADAPTER}", op.block
            x = op.writes if self.mode == "serial" else read[op.name.removesuffix("fc2") + "fc1"]
            width = tape.tensors[x].shape[-1]
            ops = list[Op]()
            for layer, shape in (("down", (self.width, width)), ("up", (out, self.width))):
                names = {part: f"{here}.{layer}.{part}" for part in ("weight", "bias")}
                parameters[names["weight"]] = Parameter(names["weight"], shape, block)
                parameters[names["bias"]] = Parameter(names["bias"], shape[:1], block)
                ops.append(Op(f"{here}.{layer}", "linear", block, (x,), f"{here}.{layer}.out", names))
                if layer == "down":
                    ops.append(Op(f"{here}.act", "gelu", block, (ops[-1].writes,), f"{here}.act.out"))
                x = ops[-1].writes
            if self.scale != 1:
                ops.append(Op(here, "times", block, (x,), f"{here}.scaled"))
            ops.append(Op(op.name, "add", block, (op.writes, ops[-1].writes), f"{op.name}.sum"))
            beside[op.name] = ops
        return self.train_own(with_beside(tape, beside, parameters))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.adapter import add_adapters

        add_adapters(model, self.width, self.mode == "parallel", self.scale or 1.0)
        return self.train_own_in(model)

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self
