"""x·σ(βx) with a constant β, run by a function that keeps its input and nothing else."""

from __future__ import annotations

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.rule import Backward, Context, Kept, Rule, kept


def _keeps(c: Context) -> list[Kept]:
    return [kept(c.reads[0])] if c.needs[0] else []


def _unwind(c: Context, b: Backward) -> None:
    """σ(βx) is computed again."""
    b.take(c.own("sigmoid"), c.reads[0].bytes)
    b.give(0)
    b.end_call()
    b.drop(c.own("sigmoid"))


SWISH = Kind(
    name="swish",
    summary="a number times the sigmoid of a multiple of it",
    plain=Rule(keeps=_keeps, unwind=_unwind, keeps_results=True),
)
