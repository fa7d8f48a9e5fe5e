"""Visual prompt tuning (Jia et al., arXiv 2203.12119), shallow: learned tokens go through the frozen blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.methods.base import PARAMETERS, Method
from bsr_explorer.naming import naming_of
from bsr_explorer.tape import Op, Parameter, Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Prompt(Method):
    """Learned tokens beside an image's, and the head, train.

    Attributes:
        tokens: how many.
    """

    tokens: int = 5

    name: ClassVar[str] = "prompt"
    summary: ClassVar[str] = "learned tokens below the first block train"
    citation: ClassVar[str] = "Jia et al., Visual Prompt Tuning, ECCV 2022 (arXiv 2203.12119)"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    def rewrite(self, tape: Tape) -> Tape:
        """The tokens are appended to those that enter the first block."""
        first = next(op for op in tape if op.block == 0)
        below = tape.ops[tape.ops.index(first) - 1]
        width = tape.tensors[below.writes].shape[-1]
        prompt = Parameter("norm_pre.prompt", (1, self.tokens, width), None)
        op = Op("norm_pre", "prefix_tokens", None, (below.writes,), "prompted", {"prompt": prompt.name})
        tape = replace(tape, parameters={**tape.parameters, prompt.name: prompt})
        tape = tape.insert_after(below, op, instead_of=below.writes)
        return tape.train_only(lambda p: p.name == prompt.name or tape.naming.is_head(p.name))

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model, where timm has a place for a norm before the blocks."""
        import torch
        from torch import nn

        class Prompted(nn.Module):
            def __init__(self, tokens: int, width: int) -> None:
                super().__init__()
                self.prompt = nn.Parameter(0.02 * torch.randn(1, tokens, width))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.cat([x, self.prompt.expand(x.shape[0], -1, -1)], dim=1)

        vit = cast(Any, model)
        vit.norm_pre = Prompted(self.tokens, vit.embed_dim)
        for name, p in model.named_parameters():
            p.requires_grad_(name == "norm_pre.prompt" or naming_of(model).is_head(name))
        return model

    @property
    def at_inference(self) -> Method | None:
        """Itself: the tokens are a part of what the model computes."""
        return self
