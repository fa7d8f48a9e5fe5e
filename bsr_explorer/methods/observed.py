"""Methods whose steps differ by how much weights change: they keep a few entries of each, to compare with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.base import PARAMETERS, STEPS
from bsr_explorer.methods.moving import VALUES, Moving, remembering
from bsr_explorer.naming import Naming, blocks_of, naming_of
from bsr_explorer.tape import Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLE = 1024
"""Entries of a weight by which it is judged how much it changes."""


@dataclass(frozen=True, eq=False, repr=False)
class Observed(Moving):
    """All parameters may train, and which do follows from how much weights change.

    A change is that of entries of a weight, evenly spaced, over their size before: a copy of all weights would take as
    much as the model itself.
    """

    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS, STEPS)

    @abstractmethod
    def weights(self, parameters: Iterable[tuple[str, int]], depth: int, naming: Naming) -> list[str]:
        """State-dict names of the weights that are observed, in order.

        Args:
            parameters: of the model, in order, by name and number of elements.
        """

    def rewrite(self, tape: Tape) -> Tape:
        """All may train; the model remembers entries of the observed weights."""
        sizes = {name: p.numel for name, p in tape.parameters.items()}
        names = self.weights(sizes.items(), len(tape.blocks), tape.naming)
        shape = (len(names), _entries([sizes[name] for name in names]))
        return remembering(tape, shape)

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        from bsr_explorer.methods.applied.moving import remember

        model.requires_grad_()
        remember(model, self._sample(model))
        return model

    def _sample(self, model: nn.Module) -> Tensor:
        from bsr_explorer.methods.applied.moving import sampled

        weights = self._observed(model)
        return sampled(weights, _entries([weight.numel() for weight in weights]))

    def _observed(self, model: nn.Module) -> list[Tensor]:
        parameters = dict(model.named_parameters())
        sizes = [(name, p.numel()) for name, p in parameters.items()]
        return [parameters[name] for name in self.weights(sizes, len(blocks_of(model)), naming_of(model))]

    def changes(self, model: nn.Module) -> list[float]:
        """By how much each observed weight has changed since this was last asked, relative to what it was."""
        before, now = model.get_buffer(VALUES), self._sample(model)
        size = before.norm(dim=1).clamp_min(1e-12)
        found: list[float] = ((now - before).norm(dim=1) / size).tolist()
        before.copy_(now)
        return found


def _entries(sizes: Sequence[int]) -> int:
    return min(SAMPLE, *sizes)
