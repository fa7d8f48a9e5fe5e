"""Dropping patch tokens, by the class token's attention or by another criterion.

EViT's drop (arXiv 2202.07800), as BSR uses it (arXiv 2405.10951): after a block's attention and its residual add,
before its second norm, the patch tokens that the class token attends to most are kept, and the others are, optionally,
fused into one token. It says which tokens stay, and nothing of which parameters train: it goes with any method that
does. Outputs and gradients are those of the authors' code (``tests/methods/test_bsr.py``). Deviations from it:

* the class token's attention is computed apart, from the queries and keys that the block has anyway, so that fused
  attention stays fused;
* what backward keeps of a drop is the positions of the tokens, in 32 bits, and the fused tokens and their weights (a
  gather keeps its whole input). DeiT-S at 224 px keeps 11.8 MB an image with fused attention and 13.53 MB with an
  explicit softmax; the authors' code, 13.52 MB;
* a drop in the last block is done (theirs ignores it there). Outputs are the same, for the class token alone goes on;
  of DeiT-S it saves 0.2 MB an image and 1% of the FLOPs.

The other criteria are ours (``models.vit.scores``); models without a class token can give them. Their scores are
constants for the gradient. ``attention`` weights a fused token as the class token's attention does; lengths and random
numbers are no weights, and the fused token is then the mean of the dropped ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import bare, check_flags, check_range, quiet
from bsr_explorer.methods.axes import Axis, Flag, Schedules
from bsr_explorer.methods.base import TOKENS, Method
from bsr_explorer.methods.criteria import CLASS_ATTENTION, Criteria, check_criterion, criteria_of, instead
from bsr_explorer.methods.full import Full
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of_model
from bsr_explorer.models.base import Selection
from bsr_explorer.naming import blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Drop(Method):
    """Token drops; written ``drop({3: 0.5, 6: 0.5, 9: 0.5}, fuse=True)``.

    Attributes:
        keep: keep rate in (0, 1] by the 0-based block in which tokens are dropped. Of M patch tokens
            (a token fused earlier among them), ``ceil(keep · M)`` stay; prefix tokens always do.
        fuse: whether the dropped tokens live on as one token, their sum weighted by attention.
        faithful: whether gradients pass to the scores that weight a fused token, as in the authors' code. Otherwise the
            scores are constants, and no dropped token is kept for them: our cheaper variant. Its gradients are off by
            some percent (of DeiT-S at 112 px with DINOv2's weights, 7.7%).
        criterion: by what the tokens that stay are chosen: ``class_attention``; ``attention``, the mean attention that
            a token receives; ``norm``, its length; ``random``, drawn anew for each image in each step, and in
            evaluation the same places in all images.
        inference: whether tokens are dropped in evaluation and afterwards, too. If not, drops make training cheaper,
            and what is trained is a plain model, which takes all tokens.
    """

    keep: Mapping[int, float] = bare({3: 0.5, 6: 0.5, 9: 0.5})
    fuse: bool = True
    faithful: bool = quiet(True)
    criterion: str = quiet(CLASS_ATTENTION)
    inference: bool = quiet(True)

    name: ClassVar[str] = "drop"
    summary: ClassVar[str] = "tokens are dropped by class attention, or another criterion"
    citation: ClassVar[str] = "Liang et al., EViT, ICLR 2022 (arXiv 2202.07800)"
    chooses: ClassVar[tuple[str, ...]] = (TOKENS,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", checked_keep(self.name, self.keep))
        check_flags(self, ("fuse", "faithful", "inference"))
        check_criterion(self.name, self.criterion)

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """A keep rate at each quarter of the depth, where there is a class token to drop by, and fusing."""
        at = tuple(halves_at_quarters(geometry.depth)) if geometry.class_token else ()
        return Schedules("keep", at, (1.0, 0.7, 0.5)), Flag("fuse")

    @classmethod
    def axes_if_named(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """The criteria that the model can give; and whether tokens are dropped in evaluation, too."""
        return Criteria("criterion", criteria_of(geometry.class_token)), Flag("inference")

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """Half of the tokens at each quarter of the depth; none where there is no class token to drop by."""
        return {"keep": halves_at_quarters(depth) if class_token else {}}

    @classmethod
    def defaults_beside(cls, given: Mapping[str, object], depth: int, class_token: bool) -> dict[str, Any]:
        """Where a criterion is given, tokens are dropped by it with or without a class token."""
        return cls.defaults_for(
            depth, class_token or given.get("criterion", CLASS_ATTENTION) != CLASS_ATTENTION
        )

    @property
    def dropping(self) -> dict[int, float]:
        """The keep rates below 1, by block."""
        return {block: keep for block, keep in self.keep.items() if keep < 1}

    def check(self, depth: int, class_token: bool) -> None:
        """Refuse blocks that a model does not have, and a criterion that it cannot give.

        Raises:
            UserError: with what would be allowed.
        """
        if self.dropping and self.criterion not in criteria_of(class_token):
            raise UserError(
                f"--method: {self} drops tokens by the class token's attention, and the model has none; {instead()}, "
                "or leave it out"
            )
        check_range(self.name, "keep", self.keep, depth)

    @property
    def weighs(self) -> bool:
        """Whether gradients pass to the scores that weight a fused token."""
        return self.fuse and self.faithful and self.criterion == CLASS_ATTENTION

    def _selection(self, keep: float) -> Selection:
        return Selection(keep, self.fuse, self.weighs, self.criterion, self.inference)

    def drops(self, depth: int) -> dict[int, Selection]:
        """Where fewer than all stay."""
        return {block: self._selection(keep) for block, keep in self.dropping.items()}

    def rewrite(self, tape: Tape) -> Tape:
        """Drop tokens from the lowest block to the highest."""
        self.check(len(tape.blocks), tape.class_token)
        for block, selection in self.drops(len(tape.blocks)).items():
            tape = ARCHITECTURES[tape.architecture].drop_tokens(tape, block, selection)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the chosen blocks drop tokens."""
        architecture = architecture_of_model(model)
        self.check(len(blocks_of(model)), architecture.has_class_token(model))
        for block, selection in self.drops(len(blocks_of(model))).items():
            architecture.drop_tokens_in(model, block, selection)
        return model

    @property
    def at_inference(self) -> Method | None:
        """Itself where it drops tokens then: a model that does not computes something else."""
        return self if self.dropping and self.inference else None

    def canonical(self, depth: int) -> Method:
        """Without the places where everything is kept; where no gradient passes to a score anyway, it is not said."""
        if not self.dropping:
            return Full()
        never = not self.fuse or self.criterion != CLASS_ATTENTION
        return replace(self, keep=self.dropping, faithful=self.faithful or never)


def halves_at_quarters(depth: int) -> dict[int, float]:
    """The paper's choice of drops, made for 12 blocks, for a model of ``depth``: half at each quarter."""
    return dict.fromkeys(sorted({depth // 4, depth // 2, 3 * depth // 4}), 0.5)


def checked_keep(method: str, keep: object) -> dict[int, float]:
    """Keep rates by block, in order.

    Raises:
        UserError: something that is no keep rate, or no block index.
    """
    if not isinstance(keep, Mapping):
        raise UserError(
            f"--method: {method}(keep={keep!r}): keep must say a rate for each block that drops, such as "
            "{3: 0.5, 6: 0.5, 9: 0.5}, or {} for none"
        )
    for block, rate in keep.items():
        if isinstance(block, bool) or not isinstance(block, int) or block < 0:
            raise UserError(
                f"--method: {method}(keep=…): {block!r} is no block index; use 0, 1, 2, … (0-based)"
            )
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError(
                f"--method: {method}(keep={{{block}: {rate!r}}}): a keep rate must be above 0 and at most 1"
            )
    return {block: float(keep[block]) for block in sorted(keep)}
