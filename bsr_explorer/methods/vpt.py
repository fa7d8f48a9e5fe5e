"""Visual prompt tuning, shallow: learned tokens go through the frozen blocks with an image's own.

They stand behind the class token (and registers), are never dropped, and are no part of a mean over patches. Few
parameters train, but they lie below all blocks: each keeps what passing a gradient takes, and of more tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import Adding, whole_number
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import Method
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

PROMPT = "norm_pre.prompt"
"""The tokens' name: timm has a place there for a norm before the blocks."""


@dataclass(frozen=True, eq=False, repr=False)
class Vpt(Adding):
    """The tokens, and the head, train.

    Attributes:
        tokens: how many.
    """

    tokens: int = 10

    name: ClassVar[str] = "vpt"
    summary: ClassVar[str] = "learned tokens before the first block train, and the head"
    citation: ClassVar[str] = "Jia et al., Visual Prompt Tuning (VPT-shallow), ECCV 2022 (arXiv 2203.12119)"

    def __post_init__(self) -> None:
        whole_number(self, "tokens")

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many tokens."""
        return (Numbers("tokens", (1, 5, 10, 50)),)

    def is_own(self, parameter: str) -> bool:
        """Whether it is the tokens."""
        return parameter == PROMPT

    def rewrite(self, tape: Tape) -> Tape:
        """They are put among those that enter the first block.

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
        return self.train_own(replace(tape, ops=ops, prefix_tokens=prefix))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.vpt import add_prompt

        add_prompt(model, self.tokens)
        return self.train_own_in(model)

    @property
    def at_inference(self) -> Method | None:
        """Itself."""
        return self
