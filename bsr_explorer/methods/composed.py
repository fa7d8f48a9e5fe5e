"""Several methods at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import MIXTURES, STEPS, TOKENS, Method, Phase
from bsr_explorer.methods.steps import Shape, Steps
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Selection


@dataclass(frozen=True, eq=False, repr=False)
class Composed(Method):
    """Several methods at once, written with ``+`` in any order and applied by ``stage``; what drops tokens comes after
    what else changes the model, for it sees the attention that there is in the end, and what freezes a part of what
    others let train comes last."""

    parts: tuple[Method, ...]

    name: ClassVar[str] = "+"
    summary: ClassVar[str] = "several methods at once"
    citation: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "parts",
            tuple(sorted(self.parts, key=lambda p: (p.stage, MIXTURES in p.chooses, TOKENS in p.chooses))),
        )
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"--method: {twice[0]} stands twice in {self}; name each method once")
        for choice in dict.fromkeys(choice for part in self.parts for choice in part.chooses):
            alike = [str(part) for part in self.parts if choice in part.chooses]
            if len(alike) > 1:
                raise UserError(f"--method: {' and '.join(alike)} both choose {choice}; keep one of them")

        dropping = [part for part in self.parts if TOKENS in part.chooses]
        for part in self.parts:
            if part.reads_all_tokens and dropping:
                raise UserError(
                    f"--method: {part} reads the same tokens behind every block, and {dropping[0]} drops some; keep "
                    "one of them"
                )
            for other in self.parts:
                if part.alike and STEPS in other.chooses and part.alike in other.chooses:
                    what = "tokens" if part.alike == TOKENS else "layers"
                    raise UserError(
                        f"--method: {part} needs the same {what} in each step, and {other} changes them; keep one of "
                        "them"
                    )

    def drops(self, depth: int) -> dict[int, Selection]:
        """Of the part that chooses tokens, if one does."""
        return {block: selection for part in self.parts for block, selection in part.drops(depth).items()}

    def rewrite(self, tape: Tape) -> Tape:
        """Each part's rewrite, in order."""
        for part in self.parts:
            tape = part.rewrite(tape)
        return tape

    def apply(self, model: nn.Module) -> nn.Module:
        """Each part's change, in order."""
        for part in self.parts:
            model = part.apply(model)
        return model

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each part's, in order."""
        for part in self.parts:
            weights = part.merge(weights)
        return weights

    def phases(self) -> tuple[Phase, ...]:
        """A phase ends where one of any part does."""
        if all(len(part.phases()) == 1 for part in self.parts):
            return (Phase(1.0, self),)
        ends = [list(accumulate(phase.share for phase in part.phases())) for part in self.parts]
        found, begin = [], 0.0
        for end in sorted({round(end, 9) for each in ends for end in each}):
            now = [
                part.phases()[bisect_right([round(e, 9) for e in each], begin)].method
                for part, each in zip(self.parts, ends, strict=True)
            ]
            found.append(Phase(end - begin, Composed(tuple(now))))
            begin = end
        return tuple(found)

    def steps(self, depth: int) -> Steps | None:
        """Those of the part whose steps differ, if one's do."""
        return next((steps for part in self.parts if (steps := part.steps(depth)) is not None), None)

    @property
    def forgets(self) -> bool:
        """Whether any part does."""
        return any(part.forgets for part in self.parts)

    def rewrite_step(self, tape: Tape, shape: Shape) -> Tape:
        """Each part's, in order."""
        for part in self.parts:
            tape = part.rewrite_step(tape, shape)
        return tape

    def turn(self, model: nn.Module, shape: Shape) -> None:
        """Each part's."""
        for part in self.parts:
            part.turn(model, shape)

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """Each part's, in order."""
        for part in self.parts:
            part.before_step(model, done, total)

    @property
    def looks(self) -> int:
        """As many as the one that looks at most."""
        return max(part.looks for part in self.parts)

    def looking(self, model: nn.Module, room: int) -> Iterator[AbstractContextManager[None]]:
        """The rounds of each part, in order."""
        for part in self.parts:
            yield from part.looking(model, room)

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        """Each part's, by its name."""
        return {part.name: part.own_state(model) for part in self.parts}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Each part's."""
        for part in self.parts:
            part.load_own_state(model, state.get(part.name, {}))

    @property
    def moves(self) -> bool:
        """Whether any part does."""
        return any(part.moves for part in self.parts)

    @property
    def at_inference(self) -> Method | None:
        """What is left of each part."""
        left = [what for part in self.parts if (what := part.at_inference) is not None]
        return None if not left else left[0] if len(left) == 1 else Composed(tuple(left))

    def canonical(self, depth: int) -> Method:
        """Each part in its canonical form, joined where two are well known as one; everything trains without being
        said."""
        parts: list[Method] = []
        for part in self.parts:
            new = part.canonical(depth)
            if new.name == "full":
                continue
            for place, old in enumerate(parts):
                if (sum_ := old.joined(new) or new.joined(old)) is not None:
                    parts[place] = sum_.canonical(depth)
                    break
            else:
                parts.append(new)
        if sum(TOKENS in part.chooses for part in parts) > 1:
            parts = [part.leaving(TOKENS) for part in parts]
        return (
            Composed(tuple(parts))
            if len(parts) > 1
            else parts[0]
            if parts
            else self.parts[0].canonical(depth)
        )

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts)


def parts_of(method: Method) -> tuple[Method, ...]:
    """The methods that one is composed of: itself, if it is not."""
    return method.parts if isinstance(method, Composed) else (method,)
