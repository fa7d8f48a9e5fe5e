"""ASI: of what a linear layer reads, a Tucker decomposition is kept, whose bases follow the training.

The forward pass is exact, and so is the gradient that is passed on. That of the weight is the one of the decomposition
x̂ = S ×₁ U₁ ×₂ U₂ ×₃ U₃, which is never formed. Each step turns the bases of the step before once by its own input,
instead of decomposing it anew. (``storages.tucker`` has the mathematics.)

The bases belong to a number of images and of tokens. A batch of another size, as the last of an epoch may be, is
decomposed from bases that are drawn, and leaves the others alone. Two things differ from the authors: the first bases
are drawn as bases, and not as their products with the input; and columns are made of length 1 before the second
product, which changes no basis and lets it run in fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.adding import LAYERS, linears
from bsr_explorer.methods.axes import Axis, Choices
from bsr_explorer.methods.base import TOKENS
from bsr_explorer.methods.by_layer import check_blocks, checked, layers_of, value_in
from bsr_explorer.methods.storing import weight_trains
from bsr_explorer.methods.storing_linears import READ, StoringLinears
from bsr_explorer.storages import Packing, Tucker
from bsr_explorer.storages.tucker import MODES, Ranks
from bsr_explorer.tape import Shape, Tape

if TYPE_CHECKING:
    from bsr_explorer.models.base import Geometry

_ALLOWED = (
    "three ranks, of images, tokens and channels, each a whole number of at least 1 or a share above 0.0 and at most "
    "1.0, such as (0.5, 16, 32)"
)


@dataclass(frozen=True, eq=False, repr=False)
class Asi(StoringLinears):
    """Chosen linear layers keep a core and three bases of their inputs.

    Attributes:
        on: see ``StoringLinears``; those that ``ranks`` names, where it names layers.
        ranks: of images, tokens and channels, for all chosen layers: a share of how many there are (0.5), or a number
            (16). Or a dictionary of them, by layer (``fc2``) or by block (0-based) and layer (``3.fc2``, which goes
            before); a layer that it does not name is left as it is.
    """

    ranks: Ranks | Mapping[str, Ranks] = (0.5, 0.125, 0.125)

    alike: ClassVar[str] = TOKENS
    name: ClassVar[str] = "asi"
    summary: ClassVar[str] = "linear layers keep a Tucker decomposition of what they read"
    citation: ClassVar[str] = (
        "Activation Subspace Iteration: Beyond Low-rank Decomposition: A Shortcut Approach for Efficient On-Device "
        "Learning (ICML 2025, arXiv 2505.05086)"
    )

    def __post_init__(self) -> None:
        ranks = checked(
            self.name, "ranks", self.ranks, lambda written, value: checked_ranks(self.name, written, value)
        )
        object.__setattr__(self, "ranks", ranks)
        if isinstance(ranks, Mapping) and self.on == type(self).on:
            object.__setattr__(self, "on", layers_of(ranks))
        super().__post_init__()
        if isinstance(ranks, Mapping) and set(self.on) != set(layers_of(ranks)):
            raise UserError(
                f"--method: asi(on={self.on!r}): ranks names other layers, {', '.join(ranks)}; leave on out"
            )

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Shares; the layers that it has by itself, if a study names no others."""
        shares = tuple((0.5, share, share) for share in (0.0625, 0.125, 0.25))
        return Choices("ranks", shares), Choices("on", (("qkv", "fc2"),))

    @property
    def by_block(self) -> bool:
        """Not so: what is remembered follows from the tokens that arrive."""
        return False

    def packing(self, channels: int) -> Packing:
        """See ``StoringLinears``: where no layer is told apart."""
        assert not isinstance(self.ranks, Mapping)
        return Tucker(self.ranks)

    def stores_at(self, block: int, layer: str, place: str, heads: int, channels: int) -> Packing | None:
        """See ``Storing``."""
        names = [name for name in self.on if LAYERS[name] == layer]
        ranks = value_in(self.ranks, block, names[0]) if names and place in READ else None
        return None if ranks is None else Tucker(ranks)

    def rewrite(self, tape: Tape) -> Tape:
        """See ``StoringLinears``.

        Raises:
            UserError: a block that the model does not have, or a rank that an input does not have.
        """
        check_blocks(self.name, "ranks", self.ranks, len(tape.blocks))
        needs, chosen = tape.needs_grad(), linears(self, tape, self.on)
        for op, (block, layer) in zip(chosen, product(tape.blocks, self.on), strict=True):
            ranks = value_in(self.ranks, block, layer)
            if ranks is not None and weight_trains(tape, op, needs):
                check_ranks(self.name, op.name, Tucker(ranks), tape.tensors[op.reads[0]].shape)
        return super().rewrite(tape)


def checked_ranks(method: str, argument: str, ranks: Any) -> Ranks:
    """Three ranks, as a tuple.

    Args:
        argument: as it was written.

    Raises:
        UserError: they are something else.
    """
    given = tuple(ranks) if isinstance(ranks, (tuple, list)) else ()
    if len(given) != len(MODES) or not all(map(is_rank, given)):
        raise UserError(f"--method: {method}({argument}): there must be {_ALLOWED}")
    return given


def is_rank(rank: object) -> bool:
    """Whether it is a share, or a number."""
    if isinstance(rank, float):
        return 0 < rank <= 1
    return isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1


def check_ranks(method: str, layer: str, stored: Tucker, shape: Shape) -> None:
    """Refuse an input that is not of images, tokens and channels, and a number that is more than there are, or more
    than a core can use.

    Raises:
        UserError: with what would be allowed.
    """
    if len(shape) != len(MODES):
        raise UserError(
            f"--method: {method}: {layer} reads {' x '.join(map(str, shape))}, and a decomposition needs "
            f"{' x '.join(MODES)}; name other layers by on=…"
        )
    found = stored.found(shape)
    read = " x ".join(f"{size} {mode}" for size, mode in zip(shape, MODES, strict=True))
    for mode, rank, size, most in zip(MODES, stored.ranks, shape, found, strict=True):
        if isinstance(rank, float) or rank <= most:
            continue
        why = "" if rank > size else f", and the product of the other two ranks is {most}"
        raise UserError(
            f"--method: {method}(ranks={stored.ranks!r}): {layer} reads {read}{why}, so the rank of {mode} must be 1 "
            f"to {most}, or a share such as 0.125"
        )
