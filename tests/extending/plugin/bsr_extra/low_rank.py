"""LoRA (Hu et al., arXiv 2106.09685) on the query-key-value layer of every block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import PARAMETERS, Method
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Method):
    """Low-rank updates and the head train.

    Attributes:
        rank: of the updates.
    """

    rank: int = 4

    name: ClassVar[str] = "low_rank"
    summary: ClassVar[str] = "low-rank updates of query, key and value train"
    citation: ClassVar[str] = "Hu et al., LoRA, ICLR 2022 (arXiv 2106.09685)"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(
                f"--method: low_rank(rank={self.rank!r}): rank must be a whole number of at least 1"
            )

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Ranks."""
        return (Numbers("rank", (1, 2, 4, 8)),)

    def rewrite(self, tape: Tape) -> Tape:
        """Two small linears beside each qkv layer, whose output is added to its."""
        for block in tape.blocks:
            qkv = tape.op(f"{tape.naming.path(block)}.attn.qkv", "linear")
            out, width = tape.parameters[qkv.params["weight"]].shape
            down = Parameter(f"{qkv.name}.down.weight", (self.rank, width), block)
            up = Parameter(f"{qkv.name}.up.weight", (out, self.rank), block)
            ops = (
                Op(
                    f"{qkv.name}.down",
                    "linear",
                    block,
                    qkv.reads,
                    f"{qkv.name}.down.out",
                    {"weight": down.name},
                ),
                Op(
                    f"{qkv.name}.up",
                    "linear",
                    block,
                    (f"{qkv.name}.down.out",),
                    f"{qkv.name}.up.out",
                    {"weight": up.name},
                ),
                Op(qkv.name, "add", block, (qkv.writes, f"{qkv.name}.up.out"), f"{qkv.name}.sum"),
            )
            tape = replace(tape, parameters={**tape.parameters, down.name: down, up.name: up})
            tape = tape.insert_after(qkv, ops[2], instead_of=qkv.writes)
            tape = tape.insert_after(qkv, ops[1]).insert_after(qkv, ops[0])
        return tape.train_only(lambda p: _is_update(p.name) or tape.naming.is_head(p.name))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model; an update begins at zero."""
        from torch import nn

        for block in blocks_of(model):
            qkv = cast(Any, block).attn.qkv
            qkv.down = nn.Linear(qkv.in_features, self.rank, bias=False)
            qkv.up = nn.Linear(self.rank, qkv.out_features, bias=False)
            nn.init.zeros_(qkv.up.weight)
            qkv.register_forward_hook(lambda layer, inputs, out: out + layer.up(layer.down(inputs[0])))
        for name, p in model.named_parameters():
            p.requires_grad_(_is_update(name) or naming_of(model).is_head(name))
        return model

    @property
    def at_inference(self) -> Method | None:
        """Nothing: updates are merged."""
        return None

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each update is added to the weight that it is of."""
        merged = {name: weight for name, weight in weights.items() if not _is_update(name)}
        for name, down in weights.items():
            if name.endswith(".qkv.down.weight"):
                of = name.replace(".down.", ".")
                merged[of] = weights[of] + weights[name.replace(".down.", ".up.")] @ down
        return merged


def _is_update(parameter: str) -> bool:
    return parameter.endswith((".qkv.down.weight", ".qkv.up.weight"))
