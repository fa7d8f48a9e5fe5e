"""Sparse-Tuning (arXiv 2405.14700): EViT's drops in a frozen model, with dense adapters.

Tokens are dropped and fused as ``evit`` does, in the blocks at each quarter of the depth (0-based 3, 6 and 9 of 12, as
the authors' code counts them). Beside the MLP of each block, and added to it, stands an adapter that reads what is left
of the tokens: h = ReLU(down x), a = down′ h, then up(h + mix [a, up′ a]), where ``up′`` and ``up`` start at zero. What
``mix`` makes of both is written as the sum of two layers, so that they are not laid side by side. Dense connections:
what the adapters of each quarter of the blocks (three of 12) have added is added once more to what leaves its last.
(Tokens are dropped in the first block of a quarter before its adapter reads them, so that all are of as many.)

Deviations from the authors' code: it also adds what enters the first block to what leaves the first quarter, so that
the model does not begin as the pretrained one does (here it does, but for the drops); and it leaves the last block's
adapter out of the last sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import Adding, linears, whole_number
from bsr_explorer.methods.at_quarters import checked_rate
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import PARAMETERS, STEPS, TOKENS, Method
from bsr_explorer.methods.drop import halves_at_quarters
from bsr_explorer.methods.evit import Evit
from bsr_explorer.methods.lora import with_beside
from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.models.vit.step import lies_across
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Op, Parameter, Shape, Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

DENSE_ADAPTER = "dense_adapter"
"""The name of an adapter within the layer that it stands beside."""

DENSE = "dense"
"""The name, within a block, of what adds its adapter's tokens to those of the blocks below."""


@dataclass(frozen=True, eq=False, repr=False)
class SparseTuning(Adding):
    """The adapters, and the head, train; tokens are dropped.

    Attributes:
        keep: keep rate in (0, 1] of the patch tokens in the block at each quarter of the depth.
        width: of the adapters' bottleneck; their inner one is half as wide.
    """

    keep: float = 0.7
    width: int = 64

    alike: ClassVar[str] = STEPS  # its dense adapters read other blocks
    name: ClassVar[str] = "sparse_tuning"
    summary: ClassVar[str] = "EViT's drops in a frozen model; dense adapters train, and the head"
    citation: ClassVar[str] = (
        "Liu et al., Sparse-Tuning: Adapting Vision Transformers with Efficient Fine-tuning and Inference "
        "(arXiv 2405.14700)"
    )
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS, TOKENS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", checked_rate(self.name, self.keep))
        whole_number(self, "width", least=2)
        if self.width % 2:
            raise UserError(
                f"--method: {self.name}(width={self.width}): width must be even, for the adapters have an inner "
                "bottleneck of half of it"
            )

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Rates, as of ``evit``, and widths."""
        return *Evit.axes(geometry), Numbers("width", (8, 16, 32, 64))

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """As of ``evit``."""
        return Evit.defaults_for(depth, class_token)

    def check(self, class_token: bool) -> None:
        """Refuse drops in a model without a class token.

        Raises:
            UserError: with what would do.
        """
        if self.keep < 1 and not class_token:
            raise UserError(
                f"--method: {self} drops tokens by the class token's attention, and the model has none; keep all "
                "(keep=1.0), or take adapter(mode='parallel') with a drop by another criterion"
            )

    def is_own(self, parameter: str) -> bool:
        """Whether it is an adapter's."""
        return f".{DENSE_ADAPTER}." in parameter

    def rewrite(self, tape: Tape) -> Tape:
        """Drop tokens, then let each adapter read what the block's second norm reads, and add what it makes to the
        MLP's output, and what those of a quarter make to what leaves its last block."""
        self.check(tape.class_token)
        tape = Evit(self.keep).rewrite(tape)
        read = {op.block: op.reads[0] for op in tape if op.name.endswith(".norm2")}
        parameters, beside = dict(tape.parameters), dict[str, list[Op]]()
        for op in linears(self, tape, ("fc2",)):
            made = self._adapter(op, read[op.block], tape, parameters)
            beside[op.name] = [
                *made,
                Op(op.name, "add", op.block, (op.writes, made[-1].writes), f"{op.name}.sum"),
            ]
        tape = with_beside(tape, beside, parameters)
        return self.train_own(self._connected(tape))

    def _adapter(self, fc2: Op, x: str, tape: Tape, parameters: dict[str, Parameter]) -> list[Op]:
        here, block, half = f"{fc2.name}.{DENSE_ADAPTER}", fc2.block, self.width // 2
        ops = list[Op]()

        def linear(name: str, x: str, shape: Shape, bias: bool = True) -> str:
            parts = {part: f"{here}.{name}.{part}" for part in ("weight", "bias")[: 1 + bias]}
            for part, path in parts.items():
                parameters[path] = Parameter(path, shape if part == "weight" else shape[:1], block)
            ops.append(Op(f"{here}.{name}", "linear", block, (x,), f"{here}.{name}.out", parts))
            return ops[-1].writes

        def add(name: str, *reads: str) -> str:
            ops.append(Op(f"{here}.{name}", "add", block, reads, f"{here}.{name}.sum"))
            return ops[-1].writes

        width = tape.tensors[x].shape[-1]
        if lies_across(tape, x):
            ops.append(Op(here, "rows", block, (x,), f"{here}.rows"))
            x = ops[-1].writes
        h = linear("down", x, (self.width, width))
        ops.append(Op(f"{here}.act", "relu", block, (h,), f"{here}.act.out"))
        h = ops[-1].writes
        a = linear("inner.down", h, (half, self.width))
        mixed = linear("inner.mix.of_down", a, (self.width, half))
        back = linear("inner.mix.up", a, (self.width, half))
        mixed = add("inner.mix", mixed, linear("inner.mix.of_up", back, (self.width, self.width), bias=False))
        linear("up", add("inner", h, mixed), (tape.parameters[fc2.params["weight"]].shape[0], self.width))
        return ops

    def _connected(self, tape: Tape) -> Tape:
        """Sums of what the adapters made go from block to block beside the tokens. They are no part of a block that
        runs again."""
        so_far, lasts = "", _lasts(len(tape.blocks))
        for block in tape.blocks:
            here = tape.naming.path(block)
            made = tape.op(f"{here}.mlp.fc2.{DENSE_ADAPTER}.up", "linear")
            out = next(op for op in reversed(tape.ops) if op.block == block)
            until = "" if block in lasts else f"{tape.naming.path(block + 1)}.{DENSE}"
            if so_far:
                total = Op(
                    f"{here}.{DENSE}", "add", None, (so_far, made.writes), f"{here}.{DENSE}.sum", until=until
                )
                tape = tape.insert_after(out, total)
                so_far, below = total.writes, total
            else:
                kept = replace(made, until=until)
                tape = replace(tape, ops=tuple(kept if op is made else op for op in tape))
                so_far, below = made.writes, out
            if block in lasts:
                final = Op(here, "add", None, (out.writes, so_far), f"{here}.{DENSE}.out")
                tape, so_far = tape.insert_after(below, final, instead_of=out.writes), ""
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.sparse_tuning import add_dense_adapters

        self.check(architecture_of_model(model).has_class_token(model))
        add_dense_adapters(Evit(self.keep).apply(model), self.width, _lasts(len(blocks_of(model))))
        return self.train_own_in(model)

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self


def _lasts(depth: int) -> set[int]:
    """The last block of each quarter: the next one drops tokens, or there is none."""
    return {*(block - 1 for block in halves_at_quarters(depth)), depth - 1}
