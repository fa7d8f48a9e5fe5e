"""Freezing the experts of a mixture, or their gate, whatever else trains.

It stands beside a method that says which blocks train: ``bsr+freeze('experts')``. A frozen expert has neither gradients
nor optimiser state, and what its products read is not kept; a gradient still passes through it to the tokens, and to
the gate that weights it. A frozen gate has no gradients either; which experts a token is sent to then follows from the
tokens alone. (The authors of ST-MoE find that fine-tuning all but the experts gives about what fine-tuning everything
does.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.arguments import bare
from bsr_explorer.methods.axes import Axis, Choices
from bsr_explorer.methods.base import MIXTURES, Method
from bsr_explorer.methods.full import Full
from bsr_explorer.models.moe.names import PARTS, of_mixtures
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import nn

    from bsr_explorer.models.base import Geometry


@dataclass(frozen=True, eq=False, repr=False)
class Freeze(Method):
    """Parts of each mixture do not train; written ``freeze('experts')``, ``freeze('experts', 'gate')``.

    Attributes:
        what: ``experts``, ``gate`` (with its noise), or both; nothing changes nothing.
    """

    what: tuple[str, ...] = bare((), each=True)

    name: ClassVar[str] = "freeze"
    summary: ClassVar[str] = "experts of a mixture, or their gate, do not train, whatever else does"
    citation: ClassVar[str] = "Zoph et al., ST-MoE (arXiv 2202.08906)"
    chooses: ClassVar[tuple[str, ...]] = (MIXTURES,)

    def __post_init__(self) -> None:
        what = (self.what,) if isinstance(self.what, str) else tuple(self.what)
        for part in what:
            if part not in PARTS:
                raise unknown("--method: freeze(…)", str(part), PARTS)
        if len({*what}) < len(what):
            raise UserError(f"--method: freeze{what!r}: name each part once")
        object.__setattr__(self, "what", tuple(sorted(what)))

    @classmethod
    def axes(cls, geometry: Geometry) -> tuple[Axis, ...]:
        """Nothing, each part, and both."""
        return (Choices("what", ((), *((part,) for part in PARTS), PARTS)),)

    @property
    def at_inference(self) -> Method | None:
        """Nothing: it changes what trains."""
        return None

    def _frozen(self, parameters: Iterable[str]) -> frozenset[str]:
        parts = of_mixtures(parameters)
        if self.what and not parts["gate"]:
            raise UserError(
                f"--method: {self} freezes a part of mixtures of experts, and the model has none; leave it out, or "
                "choose a model such as moe_vit(deit_s)"
            )
        return frozenset().union(*(parts[part] for part in self.what))

    def canonical(self, depth: int) -> Method:
        """Full fine-tuning, where nothing is frozen."""
        return self if self.what else Full()

    def rewrite(self, tape: Tape) -> Tape:
        """Freeze the part.

        Raises:
            UserError: the model has no mixture, or nothing else trains.
        """
        frozen = self._frozen(tape.parameters)
        self._check_something_trains(
            name for name, p in tape.parameters.items() if p.trains and name not in frozen
        )
        return tape.train_only(lambda p: p.trains and p.name not in frozen)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        parameters = dict(model.named_parameters())
        frozen = self._frozen(parameters)
        self._check_something_trains(
            name for name, p in parameters.items() if p.requires_grad and name not in frozen
        )
        for name in frozen:
            parameters[name].requires_grad_(False)
        return model

    def _check_something_trains(self, left: Iterable[str]) -> None:
        if next(iter(left), None) is None:
            raise UserError(f"--method: with {self} nothing trains; let something beside it train")
