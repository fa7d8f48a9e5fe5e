"""What a method is: a rewrite of the tape, and the same change to a real model.

A method is a frozen dataclass of its hyperparameters. Its ``str()`` is the expression that makes it
again, which is what stands in study files, records, figure legends and on the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.axes import Axis
from bsr_explorer.methods.steps import Shape, Steps
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Geometry, Selection


PARAMETERS = "which parameters train"
TOKENS = "which tokens stay"
STORAGE = "how tensors are stored"
LINEAR_INPUTS = "how linear layers store what they read"
ACTIVATION_INPUTS = "how activations store what they read"
STEPS = "how steps differ"
MIXTURES = "what of a mixture of experts trains"


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
    """What it decides, of which only one method can decide each: ``PARAMETERS``, ``MIXTURES``, ``TOKENS``, ``STORAGE``,
    or a part of the latter: ``LINEAR_INPUTS``, ``ACTIVATION_INPUTS``; or ``STEPS``."""

    alike: ClassVar[str] = ""
    """What must be the same in each step: ``TOKENS``, for what it remembers goes by how many there are, or all of it,
    ``STEPS``; nothing if it may differ."""
    reads_all_tokens: ClassVar[bool] = False
    """Whether it needs the same tokens behind every block, so that none may be dropped."""

    ruled: ClassVar[bool] = False
    """Whether, in its canonical form, the BSR paper's accounting has a rule for it: for blocks that train or do not,
    and token drops; none for how tensors are stored, or which of a block's parameters train."""

    @abstractmethod
    def rewrite(self, tape: Tape) -> Tape:
        """The step under this method, given the step of full fine-tuning.

        Raises:
            UserError: the method does not fit the model (a block out of range, no class token, …).
        """

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """The same change to a model, in place; returns the model to train."""

    @property
    @abstractmethod
    def at_inference(self) -> Method | None:
        """What is left of it when training is over: a method that changes what the model computes, or None where a
        plain timm model with the trained weights computes the same."""

    def drops(self, depth: int) -> Mapping[int, Selection]:
        """The token drops that ``rewrite`` asks an architecture for, by 0-based block, in a model of ``depth`` blocks.
        (A traced model is traced with them.) Nothing is refused yet."""
        return {}

    def check_step(self, optimizer: str, precision: str, micro_batches: int) -> None:
        """Refuse a step that it does not go with: an optimiser, a precision, or parts that pass one after another.

        Raises:
            UserError: with what to choose.
        """
        return

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

    def steps(self, depth: int) -> Steps | None:
        """What is known of its steps before a training, in a model of ``depth`` blocks; None: they are all alike. See
        ``methods.moving`` for methods whose steps differ."""
        return None

    @property
    def forgets(self) -> bool:
        """Whether the optimiser's state of what does not train in a step is given back, where steps differ."""
        return False

    def rewrite_step(self, tape: Tape, shape: Shape) -> Tape:
        """``rewrite``, for a step of a shape, but for what rests in it and what no gradient passes through."""
        return self.rewrite(tape)

    def turn(self, model: nn.Module, shape: Shape) -> None:
        """Let a model to which it is applied be as a step of a shape has it, in place."""
        return

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """Called before each step of a training: it may change what trains among the parameters that ``apply`` let
        train, and what it keeps in ``own_state``.

        Args:
            done: steps that are done.
            total: steps in all.
        """
        return

    @property
    def looks(self) -> int:
        """How many batches of training images it looks at before the first step of a training."""
        return 0

    def looking(self, model: nn.Module, room: int) -> Iterator[AbstractContextManager[None]]:
        """Rounds, in each of which these batches pass forward and backward. Within a round it may see gradients, and
        when all have passed choose by them what trains among the parameters that ``apply`` let train; a choice that is
        a buffer of the model is kept with a checkpoint, and is not made again.

        Args:
            room: bytes that a round may take beside such a pass, so that it takes no more than a step.
        """
        return iter(())

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
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """What a search may vary of it, in a model of this geometry; nothing, where it does not say."""
        return ()

    @classmethod
    def axes_if_named(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """What a search may vary of it beside that, where a study names it."""
        return ()

    @property
    def by_block(self) -> bool:
        """Whether all that it changes is how the operations of a block run, by what stands in that block alone: neither
        what trains, nor which tokens stay, nor what stands outside the blocks. Costs of a whole space are then sums
        over blocks; see ``rewrite_blocks``."""
        return False

    def rewrite_blocks(self, tape: Tape, live: bool = False) -> Tape:
        """``rewrite`` of one block, or of several, in which perhaps nothing trains.

        Args:
            live: whether a gradient arrives below it.
        """
        return self.rewrite(tape)

    @classmethod
    def defaults_for(cls, depth: int, class_token: bool) -> dict[str, Any]:
        """The defaults that follow the model, where they are left out of an expression and the model is known."""
        return {}

    @classmethod
    def defaults_beside(cls, given: Mapping[str, object], depth: int, class_token: bool) -> dict[str, Any]:
        """The same, where they also follow what an expression gives."""
        return cls.defaults_for(depth, class_token)

    def canonical(self, depth: int) -> Method:
        """The simplest method that does the same in a model of ``depth`` blocks.

        Two configurations with the same canonical form are one experiment.
        """
        return self

    def joined(self, other: Method) -> Method | None:
        """The one method by which the sum of two canonical ones is known, if there is one."""
        return None

    def leaving(self, choice: str) -> Method:
        """The same, said without a choice that it does not make use of, for a sum with a method that makes it."""
        return self

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
        from bsr_explorer.methods.composed import Composed, parts_of

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

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(
                f"--method: {self.method} trains for a share of {self.share:g} of the steps; it must be above 0 and at "
                "most 1"
            )
