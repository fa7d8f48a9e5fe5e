"""ALaST: a budget for each block, which follows how much the block changes the class token.

Each step, the change of a block is the squared difference of the class token before and after it, summed over channels
and averaged over images (of the last micro-batch). A block's budget goes up or down by ``alpha`` times the difference
between this step's change and the last one's, and stays within 0 and 1. ``K`` blocks train; in a block a share of the
patch tokens, as large as its budget, goes on: those to which the class token attends most. Evaluation sees all tokens.

No code of the authors is public, and sources conflict: whether the ``K`` blocks of the highest budgets train or a draw
by budget, is ``draw``; whether what stands below the blocks trains, ``stem``. The optimiser's state of a block stays
while the block rests. Dropped tokens are gone for the blocks above, too; they leave a block between its attention and
its MLP, as in EViT. The smallest budget leaves one patch token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.adding import whole_number
from bsr_explorer.methods.arguments import check_flags, quiet
from bsr_explorer.methods.axes import Axis, Numbers
from bsr_explorer.methods.base import PARAMETERS, STEPS, TOKENS
from bsr_explorer.methods.moving import VALUES, Moving, check_count, remembering
from bsr_explorer.methods.steps import Choice, Shape, Steps, drawn_from
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of_model
from bsr_explorer.models.base import Selection
from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of
from bsr_explorer.tape import Op, Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry

DRAWN = ("top", "sample")

DROPPING = Selection(1.0, fuse=False, faithful=False)
"""How tokens are dropped, but for how many."""


@dataclass(frozen=True, eq=False, repr=False)
class Alast(Moving):
    """Blocks train, and tokens stay, by budgets that follow the class token.

    Attributes:
        K: blocks that train in a step.
        alpha: by how much budgets follow changes of the class token, at least 0; 0: budgets stay 1.
        draw: ``top``: the blocks of the highest budgets train (of equal ones, the higher block); ``sample``: blocks
            are drawn with probabilities in proportion to their budgets.
        stem: whether what stands below the blocks trains. If so, a gradient passes through all blocks.
    """

    K: int = 9
    alpha: float = quiet(0.01)
    draw: str = quiet("top")
    stem: bool = quiet(True)

    name: ClassVar[str] = "alast"
    summary: ClassVar[str] = "blocks train and tokens stay by budgets that follow the class token"
    citation: ClassVar[str] = "Devoto et al., ALaST (arXiv 2408.08670)"
    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS, TOKENS, STEPS)

    def __post_init__(self) -> None:
        whole_number(self, "K")
        alpha: Any = self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha < float("inf"):
            raise UserError(
                f"--method: alast(alpha={alpha!r}): alpha must be a number of at least 0, such as 0.01"
            )
        object.__setattr__(self, "alpha", float(alpha))
        if self.draw not in DRAWN:
            raise unknown("--method: alast(draw=…)", self.draw, DRAWN)
        check_flags(self, ("stem",))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """How many blocks train."""
        return (Numbers("K", tuple(k for k in (3, 6, 9) if k <= geometry.depth)),)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """Three quarters of the blocks; budgets stay 1 where there is no class token to follow."""
        return {"K": max(1, 3 * depth // 4), **({} if class_token else {"alpha": 0.0})}

    def steps(self, depth: int) -> Steps:
        """As it begins: each budget is 1, so that all tokens stay, and no budget can make a step hold more."""
        check_count(self, "K", self.K, depth)
        blocks = tuple(TIMM.path(block) for block in range(depth))
        begin = "as it begins: all budgets are 1"
        steps = drawn_from((Choice(blocks, self.K),), self._resting, str(self), begin)
        if self.draw == "top":
            first = steps.training(blocks[depth - self.K :])
            steps = replace(
                steps, expected=((1.0, first),), known=f"{begin}; later ones follow from the images"
            )
        return steps

    def _resting(self, blocks: tuple[str, ...], naming: Naming = TIMM) -> Shape:
        return Shape((*(() if self.stem else naming.below), *blocks))

    def check(self, depth: int, class_token: bool) -> None:
        """Refuse what a model does not have.

        Raises:
            UserError: more blocks than there are, or no class token.
        """
        check_count(self, "K", self.K, depth)
        if self.alpha and not class_token:
            raise UserError(
                f"--method: {self} follows the class token, and the model has none; let alpha be 0, or choose lisa"
            )

    def rewrite(self, tape: Tape) -> Tape:
        """Every block trains and keeps all tokens; the change of the class token is noted after each."""
        self.check(len(tape.blocks), tape.class_token)
        if not self.stem:
            tape = tape.train_only(lambda p: not tape.naming.is_below(p.name))
        if not self.alpha:
            return tape
        if tape.architecture != "vit":
            raise UserError(
                f"--method: {self} drops tokens by budgets, and models of the architecture {tape.architecture} cannot; "
                "let alpha be 0, or choose lisa"
            )
        tape = remembering(tape, (len(tape.blocks),))
        for block in tape.blocks:
            mine = [op for op in tape if op.block == block]
            path = tape.naming.path(block)
            noted = Op(path, "class_change", block, (mine[0].reads[0], mine[-1].writes), f"{path}.change")
            tape = tape.insert_after(mine[-1], noted)
        return tape

    def rewrite_step(self, tape: Tape, shape: Shape) -> Tape:
        """The same with the step's drops of tokens."""
        tape, prefix = self.rewrite(tape), tape.prefix_tokens
        for block, count in shape.tokens:
            middle = next(op for op in tape if op.writes == f"{tape.naming.path(block)}.middle")
            patches = tape.tensors[middle.writes].shape[1] - prefix
            if count < patches:
                selection = replace(DROPPING, keep=keeping(count, patches))
                tape = ARCHITECTURES[tape.architecture].drop_tokens(tape, block, selection)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.alast import follow_class_token

        naming = naming_of(model)
        self.check(len(blocks_of(model)), architecture_of_model(model).has_class_token(model))
        for name, p in model.named_parameters():
            p.requires_grad_(self.stem or not naming.is_below(name))
        if self.alpha:
            follow_class_token(model)
        return model

    def turn(self, model: nn.Module, shape: Shape) -> None:
        """See ``Moving``; and how many tokens stay in each block."""
        from bsr_explorer.methods.applied.alast import keep_tokens

        super().turn(model, shape)
        keep_tokens(model, dict(shape.tokens))

    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """By the budgets after the last step."""
        from bsr_explorer.methods.applied.alast import patches_of, width_of
        from bsr_explorer.methods.applied.moving import turned

        depth, memory = len(blocks_of(model)), turned(model).memory
        budgets: list[float] = memory.setdefault("budgets", [1.0] * depth)
        if self.alpha and done:
            changes: list[float] = (model.get_buffer(VALUES) * width_of(model)).tolist()
            before = memory.get("changes", changes)
            moved = [
                b + self.alpha * (now - last) for b, now, last in zip(budgets, changes, before, strict=True)
            ]
            memory["budgets"] = budgets = [min(1.0, max(0.0, b)) for b in moved]
            memory["changes"] = changes
        train, naming = self._drawn(budgets), naming_of(model)
        rests = tuple(naming.path(block) for block in range(depth) if block not in train)
        shape = self._resting(rests, naming)
        if not self.alpha:
            return shape
        patches, tokens, left = patches_of(model), [], patches_of(model)
        for block, budget in enumerate(budgets):
            count = max(1, round(budget * patches))
            if count < left:
                left = count
                tokens.append((block, count))
        return replace(shape, tokens=tuple(tokens))

    def _drawn(self, budgets: list[float]) -> tuple[int, ...]:
        if self.draw == "top":
            order = sorted(range(len(budgets)), key=lambda block: (-budgets[block], -block))
            return tuple(sorted(order[: self.K]))
        import torch

        chances = torch.tensor(budgets, dtype=torch.float64).clamp_min(1e-9)
        return tuple(sorted(torch.multinomial(chances, self.K).tolist()))


def keeping(count: int, patches: int) -> float:
    """A keep rate with which so many of the patch tokens stay."""
    return (count - 0.5) / patches
