"""Methods that say on their tapes what they add, and the toy that they change."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from bsr_explorer.config import Config
from bsr_explorer.methods import Last
from bsr_explorer.tape import Op, Parameter, Tape

TOY = Config(model="toy", image_size=32, batch_size=4)


class Prompted(Last):
    """A method that says on its tape what it adds below the blocks."""

    name: ClassVar[str] = "prompted"

    def rewrite(self, tape: Tape) -> Tape:
        """Add a trained vector to what the patch embedding makes."""
        tape = super().rewrite(tape)
        stem = tape.op("patch_embed.proj", "patch_embed")
        prompt = Op("prompt", "add_parameter", None, (stem.writes,), "prompted", {"value": "prompt"})
        parameters = {**tape.parameters, "prompt": Parameter("prompt", (32,), None)}
        return replace(tape, parameters=parameters).insert_after(stem, prompt, instead_of=stem.writes)
