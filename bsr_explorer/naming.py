"""How an architecture names its parameters: the one place that reads a block index from a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Naming:
    """Names of the parameters and modules of an architecture.

    Attributes:
        blocks: the module path of the list of blocks.
        head: what the names of the classification head's parameters begin with.
        final_norm: the same of the norm after the blocks, wherever a model has it.
        below: the same of what stands below the blocks.
        embeddings: parameters that are added to tokens, or stand among them; weight decay leaves them alone.
        paths: the module path of each block, in order, where blocks stand in several lists, as those of stages do;
            nothing: they are numbered below ``blocks``.
        heads: of the attention of each block (0: it has none), where that was seen in a trace.
    """

    blocks: str = "blocks"
    head: tuple[str, ...] = ("head.",)
    final_norm: tuple[str, ...] = ("norm.", "fc_norm.")
    below: tuple[str, ...] = ("patch_embed", "norm_pre", "pos_embed", "cls_token", "reg_token")
    embeddings: tuple[str, ...] = ("pos_embed", "cls_token", "reg_token")
    paths: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()

    def block_of(self, name: str) -> int | None:
        """0-based block of a state-dict name or module path, matched as a whole number: block 1 is not block 11."""
        if self.paths:
            return self._staged(name)
        if not name.startswith(f"{self.blocks}."):
            return None
        index = name[len(self.blocks) + 1 :].split(".", 1)[0]
        return int(index) if index.isdecimal() else None

    def _staged(self, name: str) -> int | None:
        """The block whose path is the whole of a name, or stands before a dot in it: the innermost."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            if (block := self._numbered.get(".".join(parts[:end]))) is not None:
                return block
        return None

    @cached_property
    def _numbered(self) -> dict[str, int]:
        return {path: block for block, path in enumerate(self.paths)}

    def in_block(self, name: str) -> str:
        """The rest of a name, within its block; the name itself outside of the blocks."""
        block = self.block_of(name)
        return name if block is None else name.removeprefix(self.path(block)).removeprefix(".")

    def path(self, block: int) -> str:
        """The module path of a block (0-based)."""
        return self.paths[block] if self.paths else f"{self.blocks}.{block}"

    def is_head(self, parameter: str) -> bool:
        """Whether a state-dict name belongs to the classification head."""
        return bool(self.head) and parameter.startswith(self.head)

    def is_final_norm(self, parameter: str) -> bool:
        """Whether a state-dict name belongs to the norm after the blocks."""
        return parameter.startswith(self.final_norm)

    def is_below(self, parameter: str) -> bool:
        """Whether a state-dict name belongs to what stands below the blocks."""
        return parameter.startswith(self.below)

    def layer_of(self, parameter: str, depth: int) -> int:
        """Of a parameter, for its learning rate: 0 below the blocks, 1 to ``depth`` for the blocks, ``depth`` + 1 for
        what stands above, and for what a method adds outside of the blocks."""
        block = self.block_of(parameter)
        if block is not None:
            return block + 1
        return 0 if self.is_below(parameter) else depth + 1


TIMM = Naming()
"""Of timm's vision transformers."""


def naming_of(model: nn.Module) -> Naming:
    """How the parameters of a model are named: as its architecture said when it built it, or as timm does."""
    found = getattr(model, "parameter_naming", TIMM)
    assert isinstance(found, Naming)
    return found


def given_to(model: nn.Module) -> str:
    """The name of what a model is given: as its architecture said when it built it, or images."""
    return str(getattr(model, "given", "images"))


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a model, in order."""
    naming = naming_of(model)
    if naming.paths or not naming.blocks:
        return [model.get_submodule(path) for path in naming.paths]
    return cast("Sequence[nn.Module]", model.get_submodule(naming.blocks))
