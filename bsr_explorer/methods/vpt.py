"""Visual prompt tuning: learned tokens go through the frozen blocks with an image's own.

They stand behind the class token (and registers), are never dropped, and are no part of a mean over patches. Few
parameters train, but they lie below all blocks: each keeps what passing a gradient takes, and of more tokens.

Shallow, they go through all blocks. Deep, each block has its own, which take the place of what the block below made of
the last ones, as in the authors' code. (Which draws them from a uniform distribution, ±√(6/(3·patch² + D)), where they
are drawn here as timm's other tokens are; and which can drop some of their numbers out, which is not done here.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import Adding, whole_number
from bsr_explorer.methods.arguments import check_flags, quiet
from bsr_explorer.methods.axes import Axis, Flag, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.tape import Op, Parameter, Shape, Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

PROMPT = "norm_pre.prompt"
"""The first tokens' name: timm has a place there for a norm before the blocks."""

OWN = "prompt"
"""The name, within a block, of its own."""


@dataclass(frozen=True, eq=False, repr=False)
class Vpt(Adding):
    """The tokens, and the head, train.

    Attributes:
        tokens: how many.
        deep: whether each block has its own; otherwise those of the first go through all.
    """

    tokens: int = 10
    deep: bool = quiet(False)

    name: ClassVar[str] = "vpt"
    summary: ClassVar[str] = "learned tokens before the first block, or before each, train, and the head"
    citation: ClassVar[str] = (
        "Jia et al., Visual Prompt Tuning (VPT-shallow and VPT-deep), ECCV 2022 (arXiv 2203.12119)"
    )

    def __post_init__(self) -> None:
        whole_number(self, "tokens")
        check_flags(self, ("deep",))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many tokens; before the first block alone, or before each."""
        return Numbers("tokens", (1, 5, 10, 50)), Flag("deep")

    def is_own(self, parameter: str) -> bool:
        """Whether it is tokens."""
        return parameter == PROMPT or parameter.endswith(f".{OWN}")

    def rewrite(self, tape: Tape) -> Tape:
        """They are put among those that enter the first block, or each.

        Raises:
            UserError: models of this architecture take no other tokens.
        """
        if tape.architecture != "vit":
            raise UserError(
                f"--method: {self} adds tokens before the first block, and models of the architecture "
                f"{tape.architecture} take none; leave it out"
            )
        first = next(op for op in tape if op.block == tape.blocks[0])
        below = tape.ops[tape.ops.index(first) - 1]
        prompt = Parameter(PROMPT, (1, self.tokens, tape.tensors[below.writes].shape[-1]), None)
        op = Op("norm_pre", "prefix_tokens", None, (below.writes,), "prompted", {"prompt": prompt.name})
        tape = replace(tape, parameters={**tape.parameters, prompt.name: prompt})
        tape = tape.insert_after(below, op, instead_of=below.writes)
        prefix = tape.prefix_tokens + self.tokens
        ops = tuple(
            replace(op, attrs={**op.attrs, "prefix": prefix}) if op.kind == "mean_tokens" else op
            for op in tape
        )
        tape = replace(tape, ops=ops, prefix_tokens=prefix)
        for block in tape.blocks[1:] if self.deep else ():
            tape = self._before(tape, block, prompt.shape)
        return self.train_own(tape)

    def _before(self, tape: Tape, block: int, shape: Shape) -> Tape:
        """The block's own tokens, in the place of those that leave the block below. (That one's call makes them, as its
        last.)"""
        below = next(op for op in reversed(tape.ops) if op.block == block - 1)
        own = Parameter(f"{tape.naming.path(block)}.{OWN}", shape, block)
        op = Op(below.name, "replace_tokens", None, (below.writes,), f"{own.name}ed", {"tokens": own.name})
        tape = replace(tape, parameters={**tape.parameters, own.name: own})
        return tape.insert_after(below, op, instead_of=below.writes)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.vpt import add_prompt, add_prompts_of_blocks

        prefix = add_prompt(model, self.tokens)
        if self.deep:
            add_prompts_of_blocks(model, self.tokens, prefix)
        return self.train_own_in(model)

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self
