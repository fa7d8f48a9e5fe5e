"""How the numbers of a tensor lie."""

from __future__ import annotations

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.rule import Backward, Context, Rule


def _by_token_unwind(c: Context, b: Backward) -> None:
    b.pass_on(0)


BY_TOKEN = Kind(
    name="by_token",
    summary="a copy of tokens, laid one after the other",
    plain=Rule(unwind=_by_token_unwind),
)
