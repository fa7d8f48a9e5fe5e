"""Classes of several tasks in one head: which are of another task than an image is, and scores without theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Context, Forward, Kept, Rule, kept, write
from bsr_explorer.storages.storage import Shape


def _mask_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """Labels (B,) → (B, classes)."""
    return (*reads[0].shape, sum(op.attrs["tasks"]))


def _mask_run(c: Context, m: Forward) -> None:
    """Two comparisons of the labels with the bounds of a task and their union, task by task; then all side by side."""
    images, tasks = c.reads[0].numel, range(len(c.op.attrs["tasks"]))
    for task in tasks:
        sides = c.own(f"below task {task}"), c.own(f"above task {task}")
        for side in sides:
            m.take(side, images)
        m.take(c.own(f"outside task {task}"), images)
        m.drop(*sides)
    write(c, m)
    m.drop(*(c.own(f"outside task {task}") for task in tasks))


OTHER_TASKS = Kind(
    name="other_tasks",
    summary="which classes are of other tasks than a label, (B, classes) of bool",
    shape=_mask_shape,
    plain=Rule(run=_mask_run),
    carries=lambda op: False,
)


def _masked_keeps(c: Context) -> list[Kept]:
    """The mask."""
    return [kept(c.reads[1])] if c.needs[0] else []


MASKED_FILL = Kind(
    name="masked_fill",
    summary="scores, but minus infinity where a mask is true",
    plain=Rule(keeps=_masked_keeps),
    as_first=True,
    stays=1,
)
