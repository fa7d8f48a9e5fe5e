"""x·σ(βx): its input is kept and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

TAPE = Tape((Tensor("x", (2, 5), "x"),), {}, (Op("act", "swish", 0, ("x",), "y"),))


def test_its_input_is_kept_where_a_gradient_passes() -> None:
    assert [(name, size) for _, _, name, size in Recorded.of(TAPE, live_inputs=True).saved()] == [("x", 40)]
    assert [*Recorded.of(TAPE).saved()] == []


def test_the_sigmoid_is_computed_again(passes: Passes) -> None:
    forward, backward = passes(TAPE)
    assert forward == [("y", 40)]
    assert [name for name, change in backward if change > 0] == ["act:sigmoid", "gradient 1 of x"]
