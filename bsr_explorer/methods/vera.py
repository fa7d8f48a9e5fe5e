"""VeRA: beside frozen weights, updates train whose matrices are random, and only their vectors train.

y = W·x + b ⊙ (B·(d ⊙ (A·x))), with A (r, in) and B (out, r) as they were drawn. All layers whose weights have one shape
share them, so that they are held once. d (r,) starts at 0.1 and b (out,) at zero, as in PEFT; A and B are drawn from
Kaiming's uniform distribution, as there. When training is over, W + diag(b)·B·diag(d)·A is the plain weight. (A product
with a vector has the number format of what it multiplies, as for (IA)³.)

Fewer numbers train than of a LoRA, but more is kept: each vector's gradient needs the tensor that it multiplies, of r
and of ``out`` numbers a token. (PEFT shares one pair of matrices between all shapes, of which a layer uses a corner.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.adding import LAYERS, Adding, checked_layers, linears, linears_in, whole_number
from bsr_explorer.methods.axes import Axis, Choices, Numbers
from bsr_explorer.methods.lora import with_beside
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry

DOWN, UP = "vera_A", "vera_B"
"""What PEFT calls the matrices: of the model, where they stand by shape, and of a layer, which multiplies by them."""

INNER, OUTER = "vera_lambda_d", "vera_lambda_b"
"""What PEFT calls the vectors d and b: here, modules that multiply by them."""

VECTORS = (f".{INNER}.gamma", f".{OUTER}.gamma")
"""What the names of d and b end with."""


@dataclass(frozen=True, eq=False, repr=False)
class Vera(Adding):
    """The vectors of the updates of chosen layers of all blocks, and the head, train.

    Attributes:
        r: rank of the updates.
        on: which linear layers get one: names of ``adding.LAYERS``.
    """

    r: int = 256
    on: tuple[str, ...] = ("qkv",)

    name: ClassVar[str] = "vera"
    summary: ClassVar[str] = "LoRA of shared random matrices: two vectors a layer train, and the head"
    citation: ClassVar[str] = "Kopiczko et al., VeRA, ICLR 2024 (arXiv 2310.11454)"

    def __post_init__(self) -> None:
        whole_number(self, "r")
        object.__setattr__(self, "on", checked_layers(self.name, self.on))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks; and the layers that it stands beside by itself, or beside all of them."""
        return Numbers("r", (64, 128, 256, 512)), Choices("on", (("qkv",), tuple(LAYERS)))

    def is_own(self, parameter: str) -> bool:
        """Whether it is one of an update's two vectors."""
        return parameter.endswith(VECTORS)

    def brings(self, parameter: str) -> bool:
        """The same, or a random matrix."""
        return self.is_own(parameter) or is_shared(parameter)

    def rewrite(self, tape: Tape) -> Tape:
        """Beside each chosen layer: x → A → d → B → b, added to the layer's output. The matrices stand at the end, as
        in a model."""
        parameters, beside, shared = dict(tape.parameters), dict[str, list[Op]](), dict[str, Parameter]()
        for op in linears(self, tape, self.on):
            shape = tape.parameters[op.params["weight"]].shape
            matrices = self._matrices((shape[0], shape[1]))
            vectors, beside[op.name] = self._beside(op, matrices)
            parameters |= {p.name: p for p in vectors}
            shared |= {p.name: p for p in matrices}
        own = self.train_own(with_beside(tape, beside, {**parameters, **shared}))
        others = {name: p for name, p in own.parameters.items() if name not in shared}
        return replace(own, parameters={**others, **{name: own.parameters[name] for name in shared}})

    def _matrices(self, shape: tuple[int, int]) -> tuple[Parameter, Parameter]:
        """A and B of all layers whose weights have this shape."""
        (out, width), key = shape, key_of(shape)
        return Parameter(f"{DOWN}.{key}", (self.r, width), None), Parameter(
            f"{UP}.{key}", (out, self.r), None
        )

    def _beside(self, op: Op, matrices: tuple[Parameter, Parameter]) -> tuple[list[Parameter], list[Op]]:
        """What stands beside a linear layer: its vectors, and the operations that follow its own."""
        here, block, (down, up) = op.name, op.block, matrices
        inner = Parameter(f"{here}{VECTORS[0]}", (self.r,), block)
        outer = Parameter(f"{here}{VECTORS[1]}", up.shape[:1], block)
        ops, read = list[Op](), op.reads[0]
        for name, kind, part, parameter in (
            (DOWN, "linear", "weight", down),
            (INNER, "scale_channels", "gamma", inner),
            (UP, "linear", "weight", up),
            (OUTER, "scale_channels", "gamma", outer),
        ):
            path = f"{here}.{name}"
            ops.append(Op(path, kind, block, (read,), f"{path}.out", {part: parameter.name}))
            read = ops[-1].writes
        return [inner, outer], [*ops, Op(here, "add", block, (op.writes, read), f"{here}.sum")]

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model; an update begins at zero."""
        from bsr_explorer.methods.applied.vera import add_updates

        add_updates(model, linears_in(model, self.on), self.r)
        return self.train_own_in(model)

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each update is added to the weight that it is of."""
        merged = {name: weight for name, weight in weights.items() if not self.brings(name)}
        for name in weights:
            if name.endswith(VECTORS[0]):
                layer = name.removesuffix(VECTORS[0])
                weight = weights[f"{layer}.weight"]
                key = key_of((weight.shape[0], weight.shape[1]))
                outer, up = weights[f"{layer}{VECTORS[1]}"].unsqueeze(1), weights[f"{UP}.{key}"]
                update = outer * ((up * weights[name]) @ weights[f"{DOWN}.{key}"])
                merged[f"{layer}.weight"] = weight + update
        return merged


def is_shared(parameter: str) -> bool:
    """Whether a state-dict name is that of a random matrix."""
    return parameter.startswith((f"{DOWN}.", f"{UP}."))


def key_of(shape: tuple[int, int]) -> str:
    """Name of the matrices of layers whose weights have this shape (out, in)."""
    return f"{shape[0]}x{shape[1]}"
