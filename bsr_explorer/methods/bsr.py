"""Block Selective Reprogramming: a few trained blocks, and tokens dropped by the class token's attention.

arXiv 2405.10951. The drop is EViT's (arXiv 2202.07800): after a block's attention and its residual add,
before its second norm, the patch tokens that the class token attends to most are kept, and the others
are, optionally, fused into one token. Outputs and gradients are those of the authors' code
(``tests/methods/test_bsr.py``). Deviations from it:

* blocks are matched by index, not by substring of a parameter's name (theirs trains 12 to 80 tensors more than a
  choice of blocks says, in half of its partial choices);
* the class token's attention is computed apart, from the queries and keys that the block has anyway, so that fused
  attention stays fused;
* what backward keeps of a drop is the positions of the tokens, in 32 bits, and the fused tokens and their weights (a
  gather keeps its whole input). DeiT-S at 224 px keeps 11.8 MB an image with fused attention and 13.53 MB with an
  explicit softmax; the authors' code, 13.52 MB;
* a drop in the last block is done (theirs ignores it there). Outputs are the same, for the class token alone goes on;
  of DeiT-S it saves 0.2 MB an image and 1% of the FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import Method, Subset, block_of, checked_blocks, is_final_norm, is_head, quiet
from bsr_explorer.models.vit.step import drop_tokens
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False, repr=False)
class Bsr(Subset):
    """Block Selective Reprogramming.

    Attributes:
        blocks: 0-based indices of the blocks that train; may be empty.
        keep: keep rate in (0, 1] by the 0-based block in which tokens are dropped. Of M patch tokens
            (a token fused earlier among them), ``ceil(keep · M)`` stay; prefix tokens always do.
        fuse: whether the dropped tokens live on as one token, their sum weighted by attention.
        head: whether the classification head trains.
        norm: whether the final norm trains.
        faithful: whether gradients pass to the scores that weight a fused token, as in the authors' code. Otherwise the
            scores are constants, and no dropped token is kept for them: our cheaper variant. Its gradients are off by
            some percent (of DeiT-S at 112 px with DINOv2's weights, 7.7%).
    """

    blocks: tuple[int, ...] = (3, 7, 11)
    keep: Mapping[int, float] = field(default_factory=lambda: {3: 0.5, 6: 0.5, 9: 0.5})
    fuse: bool = True
    head: bool = quiet(True)
    norm: bool = quiet(True)
    faithful: bool = quiet(True)

    name: ClassVar[str] = "bsr"
    summary: ClassVar[str] = "chosen blocks train; tokens are dropped by class attention"
    citation: ClassVar[str] = (
        "Block Selective Reprogramming for On-device Training of ViTs (arXiv 2405.10951)"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks("bsr", self.blocks))
        object.__setattr__(self, "keep", _checked_keep(self.keep))
        for flag in ("fuse", "head", "norm", "faithful"):
            if not isinstance(getattr(self, flag), bool):
                raise UserError(
                    f"--method: bsr({flag}={getattr(self, flag)!r}): {flag} must be True or False"
                )

    def check(self, depth: int) -> None:
        """Every block index exists."""
        for part, indices in (("blocks", self.blocks), ("keep", self.keep)):
            beyond = [index for index in indices if index >= depth]
            if beyond:
                raise UserError(
                    f"--method: bsr({part}=…): block {beyond[0]} is out of range; the model has {depth} "
                    f"blocks, 0 to {depth - 1} (0-based); for example {self.stretched(depth)}"
                )

    def trains(self, parameter: str, depth: int) -> bool:
        """Whether it lies in a chosen block, or is the head's or final norm's where those train."""
        block = block_of(parameter)
        if block is not None:
            return block in self.blocks
        return (self.head and is_head(parameter)) or (self.norm and is_final_norm(parameter))

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze, then drop tokens from the lowest block to the highest."""
        self._check_class_token(tape.class_token, len(tape.blocks))
        tape = super().rewrite(tape)
        for block, keep in self.dropping.items():
            tape = drop_tokens(tape, block, keep, self.fuse, self.fuse and self.faithful)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze, then let the chosen blocks drop tokens."""
        from bsr_explorer.methods.applied import drop

        self._check_class_token(bool(model.has_class_token), len(model.blocks))  # type: ignore[arg-type]
        super().apply(model)
        for block, keep in self.dropping.items():
            drop.drop_tokens_in(model, block, keep, self.fuse, self.fuse and self.faithful)
        return model

    @property
    def at_inference(self) -> Method | None:
        """Itself where it drops tokens: a model that does not computes something else."""
        return self if self.dropping else None

    def canonical(self, depth: int) -> Method:
        """Without the places where everything is kept, and without fusing where nothing is dropped; without a fused
        token, no gradient passes to a score."""
        fuse = self.fuse and bool(self.dropping)
        return replace(self, keep=self.dropping, fuse=fuse, faithful=self.faithful or not fuse)

    @classmethod
    def stretched(cls, depth: int) -> Bsr:
        """The paper's choice, made for 12 blocks, for a model of ``depth``: blocks at the end of each
        third, drops at each quarter."""
        blocks = sorted({depth // 3 - 1, 2 * depth // 3 - 1, depth - 1} - {-1})
        drops = sorted({depth // 4, depth // 2, 3 * depth // 4})
        return cls(tuple(blocks), dict.fromkeys(drops, 0.5))

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """``stretched``, without drops where there is no class token to drop by."""
        stretched = cls.stretched(depth)
        return {"blocks": stretched.blocks, "keep": stretched.keep if class_token else {}}

    def _check_class_token(self, there: bool, depth: int) -> None:
        if self.dropping and not there:
            fits = all(block < depth for block in self.blocks)
            without = replace(self, blocks=self.blocks if fits else self.stretched(depth).blocks, keep={})
            raise UserError(
                f"--method: {self} drops tokens by the class token's attention, and the model has none; for example "
                f"{without.canonical(depth)}"
            )

    @property
    def dropping(self) -> dict[int, float]:
        """The keep rates below 1, by block."""
        return {block: keep for block, keep in self.keep.items() if keep < 1}


def _checked_keep(keep: object) -> dict[int, float]:
    if not isinstance(keep, Mapping):
        raise UserError(
            f"--method: bsr(keep={keep!r}): keep must say a rate for each block that drops, such as "
            "{3: 0.5, 6: 0.5, 9: 0.5}, or {} for none"
        )
    for block, rate in keep.items():
        if isinstance(block, bool) or not isinstance(block, int) or block < 0:
            raise UserError(f"--method: bsr(keep=…): {block!r} is no block index; use 0, 1, 2, … (0-based)")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError(
                f"--method: bsr(keep={{{block}: {rate!r}}}): a keep rate must be above 0 and at most 1"
            )
    return {block: float(keep[block]) for block in sorted(keep)}
