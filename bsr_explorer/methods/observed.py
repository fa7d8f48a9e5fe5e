"""Methods whose steps differ by how much weights change: they keep a few entries of each, to compare with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bsr_explorer.methods.base import PARAMETERS, STEPS
from bsr_explorer.methods.moving import Moving
from bsr_explorer.naming import Naming, naming_of
from bsr_explorer.tape import Parameter, Tape

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLE = 1024
"""Entries of a weight by which it is judged how much it changes."""

BEFORE = "weights_before"
"""The buffer of a model that holds them, as they were."""


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
        return replace(tape, buffers={**tape.buffers, BEFORE: Parameter(BEFORE, shape, None, trains=False)})

    def apply(self, model: nn.Module) -> nn.Module:
        """The same in a model."""
        model.requires_grad_()
        model.register_buffer(BEFORE, self._sample(model))
        return model

    def _sample(self, model: nn.Module) -> Tensor:
        from bsr_explorer.methods.applied.moving import sampled

        weights = self._observed(model)
        return sampled(weights, _entries([weight.numel() for weight in weights]))

    def _observed(self, model: nn.Module) -> list[Tensor]:
        from bsr_explorer.naming import blocks_of

        parameters = dict(model.named_parameters())
        sizes = [(name, p.numel()) for name, p in parameters.items()]
        return [parameters[name] for name in self.weights(sizes, len(blocks_of(model)), naming_of(model))]

    def changes(self, model: nn.Module) -> list[float]:
        """By how much each observed weight has changed since this was last asked, relative to what it was."""
        before, now = model.get_buffer(BEFORE), self._sample(model)
        size = before.float().norm(dim=1).clamp_min(1e-12)
        found: list[float] = ((now.float() - before.float()).norm(dim=1) / size).tolist()
        before.copy_(now)
        return found

    def merge(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without what it remembers."""
        return {name: weight for name, weight in weights.items() if name != BEFORE}


def _entries(sizes: Sequence[int]) -> int:
    return min(SAMPLE, *sizes)
