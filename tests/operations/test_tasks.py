"""Classes of several tasks: what the mask takes, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable

from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

LABELS = Tensor("labels", (4,), "labels", "int64", role="input")


def test_a_mask_is_made_task_by_task_and_takes_no_gradient(passes: Passes) -> None:
    op = Op("loss", "other_tasks", None, ("labels",), "mask", attrs={"tasks": (3, 2), "dtype": "bool"})
    tape = Tape((LABELS,), {}, (op,))
    assert tape.tensors["mask"].shape == (4, 5)
    assert tape.tensors["mask"].bytes == 20
    assert not tape.needs_grad(live_inputs=True)["mask"]
    forward, _ = passes(tape)
    task = [("below", 4), ("above", 4), ("outside", 4), ("below", -4), ("above", -4)]
    expected = [(f"loss:{side} task {n}", size) for n in (0, 1) for side, size in task]
    gone = [(f"loss:outside task {n}", -4) for n in (0, 1)]
    assert [each for each in forward if each[0] != "mask" or each[1] > 0] == [*expected, ("mask", 20), *gone]


def test_masked_scores_keep_the_mask(passes: Passes) -> None:
    mask = Tensor("mask", (4, 5), "mask", "bool", role="input")
    scores = Tensor("x", (4, 5), "x")
    op = Op("loss", "masked_fill", None, ("x", "mask"), "y")
    tape = Tape((scores, mask), {}, (op,))
    assert (tape.tensors["y"].shape, tape.tensors["y"].dtype) == ((4, 5), "fp32")
    forward, backward = passes(tape)
    assert ("y", 80) in forward
    assert ("gradient 1 of x", 80) in backward


def test_scores_stay_in_their_number_format() -> None:
    mask = Tensor("mask", (4, 5), "mask", "bool", role="input")
    scores = Tensor("x", (4, 5), "x", "bf16")
    tape = Tape((scores, mask), {}, (Op("loss", "masked_fill", None, ("x", "mask"), "y"),))
    assert tape.tensors["y"].dtype == "bf16"
