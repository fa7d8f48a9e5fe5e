"""A side network (as LST, arXiv 2206.06522, simplified): bottlenecks beside the frozen blocks, fed with their outputs.

Nothing below them trains, so that autograd keeps nothing of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import PARAMETERS, Method
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Side(Method):
    """The bottlenecks, whose sum is added to what leaves the last block, and the head train.

    Attributes:
        width: of a bottleneck.
    """

    width: int = 8

    name: ClassVar[str] = "side"
    summary: ClassVar[str] = "bottlenecks beside the frozen blocks train"
    citation: ClassVar[str] = "Sung et al., LST, NeurIPS 2022 (arXiv 2206.06522), simplified"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    def rewrite(self, tape: Tape) -> Tape:
        """Each block's output is held until its bottleneck has run, after all blocks."""
        ops, parameters = list(tape.ops), dict(tape.parameters)
        leaving = [next(op for op in reversed(ops) if op.block == block) for block in tape.blocks]
        shapes = {tape.tensors[op.writes].shape for op in leaving}
        if len(shapes) > 1:
            raise UserError(
                f"--method: {self} adds up what leaves the blocks, and cannot stand beside token drops"
            )
        width = tape.tensors[leaving[0].writes].shape[-1]
        beside: list[Op] = []
        total = ""
        for block, op in enumerate(leaving):
            here = f"side.{block}"
            ops[ops.index(op)] = replace(op, until=here)
            x = op.writes
            for layer, out, wide in (("0", self.width, width), ("2", width, self.width)):
                names = {part: f"{here}.{layer}.{part}" for part in ("weight", "bias")}
                parameters[names["weight"]] = Parameter(names["weight"], (out, wide), None)
                parameters[names["bias"]] = Parameter(names["bias"], (out,), None)
                new = Op(f"{here}.{layer}", "linear", None, (x,), f"{here}.{layer}.out", names, part="side")
                beside.append(new)
                x = new.writes
                if layer == "0":
                    beside.append(Op(f"{here}.1", "gelu", None, (x,), f"{here}.1.out", part="side"))
                    x = beside[-1].writes
            if total:
                beside.append(Op("side", "add", None, (total, x), f"{here}.sum", part="side"))
                x = beside[-1].writes
            total = x
        last = leaving[-1]
        joined = Op("norm", "add", None, (last.writes, total), "side.joined", part="side")
        place = ops.index(replace(last, until=f"side.{len(leaving) - 1}")) + 1
        after = [
            replace(op, reads=tuple(joined.writes if name == last.writes else name for name in op.reads))
            for op in ops[place:]
        ]
        tape = replace(tape, ops=(*ops[:place], *beside, joined, *after), parameters=parameters)
        return tape.train_only(lambda p: p.name.startswith("side.") or tape.naming.is_head(p.name))

    def apply(self, model: nn.Module) -> nn.Module:
        """Hooks collect what leaves each block; the norm after them is given the sum."""
        from torch import Tensor, nn

        class SideNetwork(nn.ModuleList):
            def forward(self, seen: list[Tensor]) -> Tensor:
                total = self[0](seen.pop(0))
                for part in self[1:]:
                    total = total + part(seen.pop(0))
                return cast(Tensor, total)

        vit, seen = cast(Any, model), list[Tensor]()
        width = vit.embed_dim
        vit.side = SideNetwork(
            nn.Sequential(nn.Linear(width, self.width), nn.GELU(), nn.Linear(self.width, width))
            for _ in blocks_of(model)
        )
        for block in blocks_of(model):
            block.register_forward_hook(lambda block, inputs, out: seen.append(out))
        vit.norm.register_forward_pre_hook(lambda norm, inputs: (inputs[0] + vit.side(seen),))
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith("side.") or naming_of(model).is_head(name))
        return model

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self
