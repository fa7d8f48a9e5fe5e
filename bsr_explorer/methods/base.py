"""What a method is: a rewrite of the tape, and the same change to a real model.

A method is a frozen dataclass of its hyperparameters. Its ``str()`` is the expression that makes it
again, which is what stands in study files, records, figure legends and on the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.naming import TIMM, Naming, blocks_of, naming_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import Tensor, nn


PARAMETERS = "which parameters train"
TOKENS = "which tokens stay"
STORAGE = "how tensors are stored"


def quiet(default: Any) -> Any:
    """A hyperparameter that the expression leaves out while it has its default."""
    return field(default=default, metadata={"quiet": True})


def bare(default: Any, each: bool = False) -> Any:
    """A hyperparameter that stands in the expression without its name, before all others; ``each``: a tuple, of which
    each value stands for itself."""
    metadata = {"bare": "each" if each else "whole"}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False, repr=False)
class Method(ABC):
    """A way to fine-tune. Equal are methods with the same expression."""

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    stage: ClassVar[int] = 0
    """Where it stands among composed methods: what changes the model (0) comes before what changes how its
    operations store tensors (1), that before what runs parts of it again (2), and that before what takes the
    tensors that are left elsewhere (3)."""
    chooses: ClassVar[tuple[str, ...]] = ()
    """What it decides, of which only one method can decide each: ``PARAMETERS``, ``TOKENS``, ``STORAGE``."""

    @abstractmethod
    def rewrite(self, tape: Tape) -> Tape:
        """The step under this method, given the step of full fine-tuning.

        Raises:
            UserError: the method does not fit the model (a block out of range, no class token, …).
        """

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """The same change to a timm vision transformer, in place; returns the model to train."""

    @property
    @abstractmethod
    def at_inference(self) -> Method | None:
        """What is left of it when training is over: a method that changes what the model computes, or None where a
        plain timm model with the trained weights computes the same."""

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights as those of the model that is left (``at_inference``), for a method that brought parameters
        which can be folded into the others.

        Args:
            weights: by state-dict name; they may be without memory (on the meta device).
        """
        return weights

    # --- what changes while it trains ---------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        """The methods that a training goes through, one after another. A step of it holds what the fullest of them
        holds, and takes the mean of their FLOPs; its accuracy is that of one training."""
        return (Phase(1.0, self),)

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """Called before each step of a training: it may change what trains among the parameters that ``apply`` let
        train, and what it keeps in ``own_state``.

        Args:
            done: steps that are done.
            total: steps in all.
        """
        return

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        """What it remembers from step to step beside the model's parameters and buffers: tensors and plain values. A
        training that is interrupted goes on with it."""
        return {}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Go on with what ``own_state`` gave."""
        return

    @property
    def moves(self) -> bool:
        """Whether something of the model may change before any step, so that nothing of it is frozen for sure."""
        return type(self).before_step is not Method.before_step

    # --- how it is written ----------------------------------------------------------------------------------

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """The defaults that follow the model, where they are left out of an expression and the model is known."""
        return {}

    def canonical(self, depth: int) -> Method:
        """The simplest method that does the same in a model of ``depth`` blocks.

        Two configurations with the same canonical form are one experiment.
        """
        return self

    def joined(self, other: Method) -> Method | None:
        """The one method by which the sum of two canonical ones is known, if there is one."""
        return None

    def __str__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata.get("bare") == "each" and value:
                shown += [repr(each) for each in value]
            elif f.metadata.get("bare") == "whole":
                shown.append(repr(value))
            elif not (f.metadata.get("quiet") and value == f.default):
                shown.append(f"{f.name}={value!r}")
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __add__(self, other: Method) -> Method:
        return Composed((*parts_of(self), *parts_of(other)))


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes:
        share: of its steps, above 0; those of all phases add up to 1.
        method: how it trains then.
    """

    share: float
    method: Method


@dataclass(frozen=True, eq=False, repr=False)
class OfBlocks(Method):
    """A method that does something to chosen blocks, or to all of them.

    Attributes:
        blocks: 0-based indices, or None: all blocks.
    """

    blocks: tuple[int, ...] | None = quiet(None)

    def __post_init__(self) -> None:
        if self.blocks is not None:
            object.__setattr__(self, "blocks", checked_blocks(self.name, self.blocks))

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes how gradients are made."""
        return None

    def chosen(self, depth: int) -> tuple[int, ...]:
        """The chosen blocks of a model.

        Raises:
            UserError: a block that it does not have.
        """
        if self.blocks is None:
            return tuple(range(depth))
        check_range(self.name, "blocks", self.blocks, depth)
        return self.blocks

    def canonical(self, depth: int) -> Method:
        """All blocks are said as None."""
        return replace(self, blocks=None) if self.chosen(depth) == tuple(range(depth)) else self


@dataclass(frozen=True, eq=False, repr=False)
class Subset(Method):
    """A method that chooses which parameters train; the others are frozen.

    What lies below the lowest trained parameter then runs without a graph by itself.
    """

    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    @abstractmethod
    def trains(self, parameter: str, depth: int, naming: Naming = TIMM) -> bool:
        """Whether the parameter of this state-dict name trains, in a model of ``depth`` blocks."""

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes what trains."""
        return None

    def check(self, depth: int) -> None:
        """Refuse hyperparameters that a model of ``depth`` blocks does not have.

        Raises:
            UserError: with what would be allowed.
        """
        return

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze all but the chosen parameters."""
        depth = len(tape.blocks)
        self.check(depth)
        self._check_something_trains(tape.parameters, depth, tape.naming)
        return tape.train_only(lambda p: self.trains(p.name, depth, tape.naming))

    def apply(self, model: nn.Module) -> nn.Module:
        """Set ``requires_grad`` of every parameter."""
        depth, naming = len(blocks_of(model)), naming_of(model)
        self.check(depth)
        parameters = dict(model.named_parameters())
        self._check_something_trains(parameters, depth, naming)
        for name, parameter in parameters.items():
            parameter.requires_grad_(self.trains(name, depth, naming))
        return model

    def _check_something_trains(self, parameters: Iterable[str], depth: int, naming: Naming) -> None:
        if not any(self.trains(name, depth, naming) for name in parameters):
            raise UserError(f"--method: {self} trains nothing; let the head, the norm or a block train")


@dataclass(frozen=True, eq=False, repr=False)
class Composed(Method):
    """Several methods at once, written with ``+`` in any order and applied by ``stage``; what drops tokens comes after
    what else changes the model, for it sees the attention that there is in the end."""

    parts: tuple[Method, ...]

    name: ClassVar[str] = "+"
    summary: ClassVar[str] = "several methods at once"
    citation: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(sorted(self.parts, key=lambda part: (part.stage, TOKENS in part.chooses))))
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"--method: {twice[0]} stands twice in {self}; name each method once")
        for choice in dict.fromkeys(choice for part in self.parts for choice in part.chooses):
            alike = [str(part) for part in self.parts if choice in part.chooses]
            if len(alike) > 1:
                raise UserError(f"--method: {' and '.join(alike)} both choose {choice}; keep one of them")

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

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """Each part's, in order."""
        for part in self.parts:
            part.before_step(model, done, total)

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


def checked_blocks(method: str, blocks: object) -> tuple[int, ...]:
    """Block indices in order.

    Raises:
        UserError: something that is no block index, or one that stands twice.
    """
    indices: list[Any] = (
        list(blocks)
        if isinstance(blocks, Iterable) and not isinstance(blocks, (str, Mapping, set))
        else [blocks]
    )
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise UserError(
                f"--method: {method}(blocks=…): {index!r} is no block index; use 0, 1, 2, … (0-based)"
            )
    twice = sorted({index for index in indices if indices.count(index) > 1})
    if twice:
        raise UserError(
            f"--method: {method}(blocks=…): block {twice[0]} is named twice; name each block once"
        )
    return tuple(sorted(indices))


def check_range(method: str, part: str, blocks: Iterable[int], depth: int, hint: str = "") -> None:
    """Refuse 0-based blocks that a model of ``depth`` blocks does not have.

    Args:
        part: the argument that names them.
        hint: what to write instead, after the sentence.

    Raises:
        UserError: a block out of range.
    """
    beyond = [block for block in blocks if block >= depth]
    if beyond:
        raise UserError(
            f"--method: {method}({part}=…): block {beyond[0]} is out of range; the model has {depth} "
            f"blocks, 0 to {depth - 1} (0-based){hint}"
        )
