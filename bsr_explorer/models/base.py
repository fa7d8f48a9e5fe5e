"""What an architecture is: how its models are described, built, named and changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Protocol

from bsr_explorer.errors import UserError
from bsr_explorer.models.inputs import IMAGES, Inputs
from bsr_explorer.naming import TIMM, Naming
from bsr_explorer.tape import Tape, kept_tokens

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class Geometry(Protocol):
    """What all geometries say of a model: plain numbers, on which everything that it costs depends.

    Attributes:
        name: of the model, as the user wrote it.
        image_size: side of the square images, pixels.
        num_classes: outputs of the head.
        patch: image sizes are multiples of this, pixels.
        depth: blocks.
        class_token: whether a class token goes through the blocks, by whose attention tokens can be dropped.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def image_size(self) -> int:
        """See above."""
        ...

    @property
    def num_classes(self) -> int:
        """See above."""
        ...

    @property
    def patch(self) -> int:
        """See above."""
        ...

    @property
    def depth(self) -> int:
        """See above."""
        ...

    @property
    def class_token(self) -> bool:
        """See above."""
        ...


CRITERIA: dict[str, str] = {
    "class_attention": "the class token's attention",
    "attention": "the mean attention that they receive",
    "norm": "their length",
    "random": "chance",
}
"""What patch tokens are dropped by, in words. All but the first need no class token, and take no gradient."""

LEARNED = "learned"
"""What tokens are dropped by where each drop has a scorer that trains (``methods.adapler``)."""

SAID = {**CRITERIA, LEARNED: "a learned score"}
"""All of them, in words."""


@dataclass(frozen=True)
class Selection:
    """Which patch tokens stay where some are dropped, and what becomes of the others.

    Attributes:
        keep: keep rate in (0, 1]; of M patch tokens, ``operations.tokens.kept_tokens`` stay.
        fuse: whether the dropped tokens live on as one, weighted by their scores.
        faithful: whether gradients pass to these scores. Then there is a fused token even where the keep rate, rounded
            up, keeps every token; otherwise nothing changes there. (Only the class token's attention and learned scores
            take gradients.)
        criterion: one of ``SAID``.
        inference: whether tokens are dropped in evaluation, too.
    """

    keep: float
    fuse: bool
    faithful: bool
    criterion: str = "class_attention"
    inference: bool = True

    @property
    def by_mean(self) -> bool:
        """Whether its scores weight nothing: the token that the dropped ones are fused into is their mean."""
        return self.criterion in ("norm", "random")

    @property
    def by_attention(self) -> bool:
        """Whether its scores are made of queries and keys."""
        return self.criterion in ("class_attention", "attention")

    def keeps_all(self, patches: int) -> bool:
        """Whether it changes nothing of so many patch tokens."""
        return not self.faithful and kept_tokens(patches, self.keep) == patches

    def left_of(self, patches: int) -> int:
        """How many of so many patch tokens there are behind it, the fused one among them."""
        return patches if self.keeps_all(patches) else kept_tokens(patches, self.keep) + self.fuse


@dataclass(frozen=True)
class Followed:
    """Where the patches of some images are, after a block that dropped or merged tokens.

    Attributes:
        block: 0-based.
        by: the criterion, in words; None: alike tokens were merged.
        places: the place of the token that each patch is in, among those that are no prefix tokens, (B, P); -1 where
            its token was dropped (or fused with others that were).
    """

    block: int
    by: str | None
    places: Tensor


NO_DROPS: Mapping[int, Selection] = MappingProxyType({})


class Architecture(ABC):
    """A family of models of blocks. What it leaves out, its models cannot do, and say so."""

    name: ClassVar[str]
    summary: ClassVar[str]
    naming: ClassVar[Naming] = TIMM
    on_hub: ClassVar[bool] = False
    """Whether its models are timm's, of which the hub (or the extra ``demo``) has weights."""
    published: ClassVar[bool] = False
    """Whether published accountings have a rule for its models (``cost.published``)."""
    takes: ClassVar[Inputs] = IMAGES
    """What its models are given. Their size is what ``image_size`` says: pixels, or tokens of a sequence."""
    corrected: ClassVar[bool] = False
    """Whether a file can correct what was found in its models (``models.traced.described``)."""

    @abstractmethod
    def knows(self, model: str) -> bool:
        """Whether it has a model of this name. Quick, and without torch."""

    @abstractmethod
    def geometry(self, model: str, image_size: int, num_classes: int) -> Geometry:
        """The geometry of a model at an image size and a number of classes.

        Raises:
            UserError: there is no such model, or it does not take such images.
        """

    def with_tasks(self, geometry: Geometry, tasks: tuple[int, ...]) -> Geometry:
        """The geometry of a model whose head is that of several tasks side by side (see ``models.tasks``).

        Args:
            tasks: classes of each; their sum is ``num_classes``.

        Raises:
            UserError: not in this architecture.
        """
        raise UserError(
            f"--tasks: models of the architecture {self.name} cannot learn several tasks; choose a model that "
            "classifies images"
        )

    @abstractmethod
    def step_tape(self, geometry: Geometry, batch_size: int, attention: str) -> Tape:
        """The forward pass and the loss of a training step with every parameter training, operation by operation.

        Its ``architecture`` and ``naming`` are these. The name of an operation is the path of the module that runs it,
        and each part of the path is a call: a list of blocks is one that is called (``nn.Sequential``), for a call
        holds what it is given until it returns.

        Args:
            attention: one of ``models.lowering.ATTENTION``.
        """

    def step_tape_in(
        self,
        geometry: Geometry,
        batch_size: int,
        attention: str,
        precision: str,
        device: str,
        drops: Mapping[int, Selection] = NO_DROPS,
    ) -> Tape:
        """The same, where the number formats and the device decide what is called; otherwise ``models.lowering`` says
        what becomes of a tape.

        Args:
            precision: key of ``models.lowering.PRECISIONS``.
            device: key of ``devices.DEVICES``.
            drops: the token drops that ``drop_tokens`` will ask for, by 0-based block (``Method.drops``). A tape that
                is traced must know them beforehand; one that is written follows.
        """
        return self.step_tape(geometry, batch_size, attention)

    def identity(self, model: str) -> object:
        """What a model by this name is made of beside the name, hashable: what may change while a process runs."""
        return None

    def naming_of(self, model: nn.Module, name: str, image_size: int, num_classes: int) -> Naming:
        """How the parameters of a model are named that it has built."""
        return self.naming

    @abstractmethod
    def build(self, model: str, image_size: int, num_classes: int) -> nn.Module:
        """A model with random weights, drawn from torch's global generator, on torch's default device."""

    def use_attention_path(self, model: nn.Module, path: str) -> None:
        """Let the attention layers of a model run a path (see ``step_tape``), in place. Without attention there is
        nothing to do."""
        return

    def note(self, geometry: Geometry, drops: Mapping[int, Selection] = NO_DROPS) -> str:
        """What is to be said beside the costs of a model, in a line; nothing, if there is nothing.

        Args:
            drops: see ``step_tape_in``.
        """
        return ""

    def begins_as(self, model: str) -> str | None:
        """The model whose weights one of this name begins with; None: it has weights of its own, or none."""
        return None

    def begin(self, model: nn.Module, other: nn.Module) -> str:
        """Give a model the weights of the one that it begins as, in place; what was done, in words."""
        raise self._cannot("begin as another model")

    # --- dropping tokens --------------------------------------------------------------------------------

    def has_class_token(self, model: nn.Module) -> bool:
        """Whether tokens can be dropped by a class token's attention."""
        return False

    def drop_tokens(self, tape: Tape, block: int, selection: Selection) -> Tape:
        """The tape with a token drop in a block (0-based); see ``methods.drop``.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("drop tokens")

    def drop_tokens_in(self, model: nn.Module, block: int, selection: Selection) -> None:
        """The same in a model, in place.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("drop tokens")

    def follow_tokens(self, model: nn.Module, images: Tensor, at_random: bool = False) -> list[Followed]:
        """What becomes of the patches of images (B, 3, S, S), block by block, in evaluation.

        Args:
            at_random: whether tokens are dropped by chance, whatever the model's criterion is.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("show their tokens")

    def all_tokens(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it, a model neither drops nor merges tokens.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("show their tokens")

    # --- merging tokens -----------------------------------------------------------------------------------

    def merge_tokens(self, tape: Tape, r: int, proportional: bool = False) -> Tape:
        """The tape with ``r`` tokens merged into others in each block; see ``methods.tome``.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("merge tokens")

    def merge_tokens_in(self, model: nn.Module, r: int, proportional: bool = False) -> None:
        """The same in a model, in place.

        Raises:
            UserError: not in this architecture.
        """
        raise self._cannot("merge tokens")

    # --- packing what blocks keep -------------------------------------------------------------------------

    packs: ClassVar[bool] = False
    """Whether its blocks have the layers of timm's, whose kept tensors can be packed (``methods.storing``)."""

    # --- running the first blocks once --------------------------------------------------------------------

    continues: ClassVar[bool] = False
    """Whether a model can go on from what its first blocks have made (``stem`` and ``tail``); if not, frozen blocks
    run in each step."""

    def stem(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) → what enters the first block, (B, N, D)."""
        raise self._cannot("go on from its blocks")

    def tail(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """What leaves the last block, (B, N, D) → logits (B, classes)."""
        raise self._cannot("go on from its blocks")

    def after_blocks(self, model: nn.Module) -> nn.Module:
        """The module that is called next after the last block."""
        raise self._cannot("go on from its blocks")

    def _cannot(self, what: str) -> UserError:
        return UserError(f"--model: models of the architecture {self.name} cannot {what}")
