"""What each block does to an image, as the tape says it."""

from __future__ import annotations

from typing import ClassVar

import pytest

from bsr_explorer.methods import METHODS, Last
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.tape import Op, Tape
from tests.prefix.changing import TOY, Prompted

pytestmark = pytest.mark.usefixtures("toy")


class Branched(Last):
    """A method that says on its tape that something above goes by what the first block makes."""

    name: ClassVar[str] = "branched"

    def rewrite(self, tape: Tape) -> Tape:
        """Add it to what the last block makes."""
        tape = super().rewrite(tape)
        last = next(op for op in tape if op.writes == "blocks.3.out")
        side = Op("side", "add", None, (last.writes, "blocks.0.out"), "both")
        return tape.insert_after(last, side, instead_of=last.writes)


def test_the_tape_says_where_something_trains_and_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(method: type[Last]) -> list[bool]:
        monkeypatch.setitem(METHODS, method.name, method)
        return [stage.frozen for stage in stages_of(TOY.with_method(f"{method.name}(k=1)"))]

    assert frozen(Last) == [True, True, True, True, False]
    assert frozen(Prompted) == [False, True, True, True, False]
    assert frozen(Branched) == [True, True, False, False, False]
