"""Methods whose steps differ: what trains, or which tokens stay, changes from step to step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import STEPS, Method
from bsr_explorer.methods.steps import Shape, Steps
from bsr_explorer.tape import Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bsr_explorer.models.base import Selection

REMEMBERED = "remembered"
"""The module of a model that holds tensors which a method goes by from step to step, in fp32 in any precision."""

VALUES = f"{REMEMBERED}.values"
"""Its buffer."""


def remembering(tape: Tape, shape: tuple[int, ...]) -> Tape:
    """The tape of a model that remembers numbers of a shape."""
    return replace(tape, buffers={**tape.buffers, VALUES: Parameter(VALUES, shape, None, trains=False)})


@dataclass(frozen=True, eq=False, repr=False)
class Moving(Method):
    """A method whose steps differ.

    ``rewrite`` and ``apply`` are of all that may train at any time; a step has a shape, which ``choose`` gives.
    """

    chooses: ClassVar[tuple[str, ...]] = (STEPS,)

    @abstractmethod
    def steps(self, depth: int) -> Steps:
        """What is known of the steps before a training."""

    @abstractmethod
    def choose(self, model: nn.Module, done: int, total: int) -> Shape:
        """The shape of the next step. What it draws, it draws from torch's global generator, and what it remembers is
        in ``turned(model).memory``: so a training that was interrupted goes on as it would have.

        Args:
            done: steps that are done.
            total: steps in all.
        """

    def before_step(self, model: nn.Module, done: int, total: int) -> None:
        """Turn the model to the next step's shape."""
        if not done and total:
            self.check_length(total)
        self.turn(model, self.choose(model, done, total))

    def check_length(self, steps: int) -> None:
        """Refuse a training that is too short for it.

        Raises:
            UserError: with the steps that it needs.
        """
        return

    def turn(self, model: nn.Module, shape: Shape) -> None:
        """Let the model be as a step of a shape has it, in place."""
        from bsr_explorer.methods.applied.moving import turn

        turn(model, shape)

    def own_state(self, model: nn.Module) -> dict[str, Any]:
        """The shape of the last step, and what it remembers."""
        from bsr_explorer.methods.applied.moving import turned

        now = turned(model)
        return {"shape": asdict(now.shape), "memory": now.memory}

    def load_own_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Go on with it."""
        from bsr_explorer.methods.applied.moving import turned

        turned(model).memory.update(state["memory"])
        self.turn(model, Shape(**state["shape"]))

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes how gradients are made."""
        return None

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without what it remembers."""
        return {name: weight for name, weight in weights.items() if name != VALUES}


@dataclass(frozen=True, eq=False, repr=False)
class InStep(Method):
    """One step of a training whose steps differ, as a method of its own, for its costs.

    Attributes:
        of: the method.
        shape: of the step.
    """

    of: Method
    shape: Shape

    name: ClassVar[str] = "step"
    summary: ClassVar[str] = "one step of a training whose steps differ"
    citation: ClassVar[str] = ""

    def drops(self, depth: int) -> Mapping[int, Selection]:
        """Those of the method."""
        return self.of.drops(depth)

    def rewrite(self, tape: Tape) -> Tape:
        """The step, in which what rests does not train, and no gradient passes where it is skipped."""
        return resting(self.of.rewrite_step(tape, self.shape), self.shape, self.of.forgets)

    def apply(self, model: nn.Module) -> nn.Module:
        """The method's model, turned to the step."""
        model = self.of.apply(model)
        self.of.turn(model, self.shape)
        return model

    @property
    def at_inference(self) -> Method | None:
        """That of the method."""
        return self.of.at_inference

    def __str__(self) -> str:
        return f"{self.of} in a step ({self.shape})"


def resting(tape: Tape, shape: Shape, forgets: bool) -> Tape:
    """The tape of a step in which some of what trains rests, and some branches pass no gradient.

    Args:
        forgets: whether the optimiser keeps no state of what rests.
    """
    parameters = {
        name: replace(p, trains=False, remembered=not forgets) if p.trains and shape.rests_at(name) else p
        for name, p in tape.parameters.items()
    }
    tape = replace(tape, parameters=parameters)
    begins = {first_of(branch) for branch in shape.skips}
    ops = tuple(replace(op, attrs={**op.attrs, "detached": True}) if op.name in begins else op for op in tape)
    return replace(tape, ops=ops) if begins else tape


# --- residual branches ----------------------------------------------------------------------------------

BRANCHES = {"attn": ("norm1", "attn", "ls1"), "mlp": ("norm2", "mlp", "ls2")}
"""The two residual branches of a block, by the module that each is named for, with the modules that run in it."""


def first_of(branch: str) -> str:
    """The path of the module at which a branch begins: its norm."""
    block, _, name = branch.rpartition(".")
    return f"{block}.{BRANCHES[name][0]}"


def modules_of(branch: str) -> tuple[str, ...]:
    """The paths of the modules that run in a branch."""
    block, _, name = branch.rpartition(".")
    return tuple(f"{block}.{module}" for module in BRANCHES[name])


# --- drawing --------------------------------------------------------------------------------------------


def drawn(count: int, of: int) -> tuple[int, ...]:
    """So many of 0, 1, …, in order, drawn from torch's global generator."""
    import torch

    return tuple(sorted(torch.randperm(of)[:count].tolist()))


def check_count(method: Method, argument: str, count: int, depth: int) -> None:
    """Refuse more blocks than a model has.

    Raises:
        UserError: with how many it has.
    """
    if count > depth:
        raise UserError(
            f"--method: {method}: the model has {depth} blocks, so {argument} must be 1 to {depth}"
        )
