"""How the numbers of a tensor lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Backward, Context, Rule
from bsr_explorer.storages.storage import Shape


def _by_token_unwind(c: Context, b: Backward) -> None:
    b.pass_on(0)


BY_TOKEN = Kind(
    name="by_token",
    summary="a copy of tokens, laid one after the other",
    plain=Rule(unwind=_by_token_unwind),
)


def _swapped(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """(B, N, D) → (B, D, N)."""
    batch, rows, columns = reads[0].shape
    return (batch, columns, rows)


SWAP = Kind(
    name="swap",
    summary="a copy whose tokens and channels change places",
    shape=_swapped,
)
