"""Block Selective Reprogramming: a few trained blocks, and tokens dropped by the class token's attention.

arXiv 2405.10951. It is the sum of ``blocks`` and ``drop``, which may stand alone or beside other methods; this is the
name by which the sum is known, in records and figures too. Blocks are matched by index, not by substring of a
parameter's name as in the authors' code (theirs trains 12 to 80 tensors more than a choice of blocks says, in half of
its partial choices). Of the drop, see ``methods.drop``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.arguments import check_flags, check_range, checked_blocks, quiet
from bsr_explorer.methods.axes import Axis
from bsr_explorer.methods.base import PARAMETERS, TOKENS, Method
from bsr_explorer.methods.blocks import Blocks, ends_of_thirds
from bsr_explorer.methods.criteria import CLASS_ATTENTION, check_criterion, criteria_of, instead
from bsr_explorer.methods.drop import Drop, checked_keep, halves_at_quarters
from bsr_explorer.models.architecture import architecture_of_model
from bsr_explorer.naming import TIMM, Naming, blocks_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry, Selection

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False, repr=False)
class Bsr(Method):
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
        criterion: by what the tokens that stay are chosen; see ``methods.drop``.
        inference: whether tokens are dropped in evaluation and afterwards, too.
    """

    blocks: tuple[int, ...] = (3, 7, 11)
    keep: Mapping[int, float] = field(default_factory=lambda: {3: 0.5, 6: 0.5, 9: 0.5})
    fuse: bool = True
    head: bool = quiet(True)
    norm: bool = quiet(True)
    faithful: bool = quiet(True)
    criterion: str = quiet(CLASS_ATTENTION)
    inference: bool = quiet(True)

    name: ClassVar[str] = "bsr"
    summary: ClassVar[str] = "chosen blocks train; tokens are dropped by class attention"
    citation: ClassVar[str] = (
        "Block Selective Reprogramming for On-device Training of ViTs (arXiv 2405.10951)"
    )

    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS, TOKENS)
    ruled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks("bsr", self.blocks))
        object.__setattr__(self, "keep", checked_keep("bsr", self.keep))
        check_flags(self, ("fuse", "head", "norm", "faithful", "inference"))
        check_criterion(self.name, self.criterion)

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Those of ``blocks`` and of ``drop``."""
        return *Blocks.axes(geometry), *Drop.axes(geometry)

    @property
    def of_blocks(self) -> Blocks:
        """What it says of which parameters train."""
        return Blocks(self.blocks, self.head, self.norm)

    @property
    def of_tokens(self) -> Drop:
        """What it says of which tokens stay."""
        return Drop(self.keep, self.fuse, self.faithful, self.criterion, self.inference)

    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """See ``Blocks``."""
        return self.of_blocks.trains(parameter, depth, naming)

    def check(self, depth: int, class_token: bool = True) -> None:
        """Refuse what a model does not have.

        Raises:
            UserError: a block out of range, or drops by a class token that there is not.
        """
        if self.dropping and self.criterion not in criteria_of(class_token):
            fits = all(block < depth for block in self.blocks)
            without = replace(self, blocks=self.blocks if fits else ends_of_thirds(depth), keep={})
            raise UserError(
                f"--method: {self} drops tokens by the class token's attention, and the model has none; {instead()}, "
                f"or drop none, for example {without.canonical(depth)}"
            )
        for part, blocks in (("blocks", self.blocks), ("keep", tuple(self.keep))):
            check_range(self.name, part, blocks, depth, f"; for example {self.stretched(depth)}")

    def drops(self, depth: int) -> dict[int, Selection]:
        """See ``Drop``."""
        return self.of_tokens.drops(depth)

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze, then drop tokens."""
        self.check(len(tape.blocks), tape.class_token)
        return self.of_tokens.rewrite(self._named(lambda: self.of_blocks.rewrite(tape)))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze, then let the chosen blocks drop tokens."""
        self.check(len(blocks_of(model)), architecture_of_model(model).has_class_token(model))
        return self.of_tokens.apply(self._named(lambda: self.of_blocks.apply(model)))

    def _named(self, act: Callable[[], Made]) -> Made:
        """Errors name this method, and not its part."""
        try:
            return act()
        except UserError as error:
            raise UserError(str(error).replace(str(self.of_blocks), str(self), 1)) from None

    @property
    def at_inference(self) -> Method | None:
        """Itself where it drops tokens then: a model that does not computes something else."""
        return self if self.dropping and self.inference else None

    def canonical(self, depth: int) -> Method:
        """Without the places where everything is kept, and without fusing or a criterion where nothing is dropped;
        where no gradient passes to a score anyway, it is not said."""
        fuse = self.fuse and bool(self.dropping)
        criterion = self.criterion if self.dropping else CLASS_ATTENTION
        faithful = self.faithful or not fuse or criterion != CLASS_ATTENTION
        inference = self.inference or not self.dropping
        return replace(
            self, keep=self.dropping, fuse=fuse, faithful=faithful, criterion=criterion, inference=inference
        )

    def joined(self, other: Method) -> Method | None:
        """With token drops, where it has none of its own, it is BSR with those."""
        if self.dropping or not isinstance(other, Drop):
            return None
        return replace(
            self,
            keep=other.keep,
            fuse=other.fuse,
            faithful=other.faithful,
            criterion=other.criterion,
            inference=other.inference,
        )

    def leaving(self, choice: str) -> Method:
        """Without drops, it is ``blocks``."""
        return self.of_blocks if choice == TOKENS and not self.dropping else self

    @classmethod
    def stretched(cls, depth: int) -> Bsr:
        """The paper's choice, made for 12 blocks, for a model of ``depth``: blocks at the end of each
        third, drops at each quarter."""
        return cls(ends_of_thirds(depth), halves_at_quarters(depth))

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """``stretched``, without drops where there is no class token to drop by."""
        stretched = cls.stretched(depth)
        return {"blocks": stretched.blocks, "keep": stretched.keep if class_token else {}}

    @classmethod
    def defaults_beside(cls, given: Mapping[str, object], depth: int, class_token: bool) -> dict[str, Any]:
        """As of ``drop``."""
        return {**cls.defaults_for(depth, class_token), **Drop.defaults_beside(given, depth, class_token)}

    @property
    def dropping(self) -> dict[int, float]:
        """The keep rates below 1, by block."""
        return self.of_tokens.dropping
