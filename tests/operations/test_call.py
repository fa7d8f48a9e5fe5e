"""An operation that asks an observer what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bsr_explorer.cost.peak import step_ledger
from bsr_explorer.cost.setup import Setup
from bsr_explorer.operations.call import Facts, Happening, Holds
from bsr_explorer.operations.rule import NOTHING, Lacking
from bsr_explorer.storages.by_call import NOTHING as UNPACKED
from bsr_explorer.storages.by_call import Packs
from bsr_explorer.tape import Op, Parameter, Tape, Tensor


@dataclass(frozen=True)
class _Splits:
    """Two halves of a product with a weight, of which the first alone carries a gradient; keeps its input and 100 bytes
    of its own. Asked for a bound, nobody knows its FLOPs."""

    lacks: Lacking = NOTHING

    def bounding(self) -> _Splits:
        return _Splits(Lacking(("forward_flops",), "nobody counts them"))

    def casts(self) -> tuple[int, ...]:
        return (1,)

    def given_copies(self, numbers: Sequence[int]) -> _Splits:
        return self

    def facts(self, needs: tuple[bool, ...], packs: Packs = UNPACKED) -> Facts:
        run = (Happening("make", 0), Happening("make", 1), Happening("take", 0, 100), Happening("take", 1, 7))
        if not any(needs):
            return Facts((), 12, 0, run, (), (False, False), lacks=self.lacks)
        kept = (Holds("argument", 0), Holds("own", 0, 100))
        return Facts(
            kept, 12, 24, run, (Happening("give", 1), Happening("gone", 0)), (True, False), lacks=self.lacks
        )


def _tape(trains: bool) -> Tape:
    halves = (Tensor("left", (2, 3), "left"), Tensor("right", (2, 3), "right"))
    split = Op(
        "split",
        "call",
        None,
        ("x",),
        "left",
        {"1": "w"},
        {
            "observer": _Splits(),
            "arguments": (("read", 0), ("part", "1")),
            "results": halves,
            "shows": (None, None),
        },
        others=("right",),
    )
    x = Op("head", "by_token", None, ("images",), "x")
    loss = Op("loss", "cross_entropy", None, ("left", "labels"), "loss.out")
    inputs = (
        Tensor("images", (2, 3), "images", role="input"),
        Tensor("labels", (2,), "labels", dtype="int64", role="input"),
    )
    return Tape(inputs, {"w": Parameter("w", (3, 6), None, trains)}, (x, split, loss))


def test_all_that_it_makes_is_on_the_tape() -> None:
    tape = _tape(True)
    assert {"left", "right"} <= tape.tensors.keys()
    needs = tape.needs_grad()
    assert needs["left"] and not needs["right"]


def test_what_was_seen_is_what_it_costs() -> None:
    ledger = step_ledger(_tape(True), Setup("sgd"))
    assert (
        ledger.saved_bytes == 24 + 100 + 24 + 4
    )  # its input, its own, and of the loss: log-probabilities, weight
    assert (ledger.forward_flops, ledger.train_flops) == (12, 36)
    assert step_ledger(_tape(False), Setup("sgd")).saved_bytes == 0


def test_a_result_that_is_a_view_shows_what_the_call_was_given() -> None:
    tape = _tape(True)
    op = tape.op("split", "call")
    attrs = {**op.attrs, "shows": (("read", 0), ("result", 0))}
    views = Tape(tape.inputs, tape.parameters, (tape.ops[0], Op(**{**vars(op), "attrs": attrs}), tape.ops[2]))
    assert views.tensors["left"].storage == views.tensors["right"].storage == "x"


def test_what_lacks_is_said_once_of_all_calls_alike() -> None:
    bounds = step_ledger(_tape(True).bounded(), Setup("sgd", micro_batches=3))
    (unknown,) = bounds.unknown
    given_and_made = 2 * 3 * 4 + 3 * 6 * 4 + 2 * (2 * 3 * 4)
    assert (unknown.operation, unknown.where, unknown.times) == ("call", "split", 3)
    assert (unknown.bytes, unknown.why) == (given_and_made, "nobody counts them")
    assert bounds.at_least == {"forward_flops", "train_flops"}
    assert step_ledger(_tape(True), Setup("sgd")).unknown == ()
