"""Gradients on their way through the backward pass."""

from __future__ import annotations

from collections import Counter

from bsr_explorer.cost.holders import Memory
from bsr_explorer.tape import Parameter, Tape, Tensor


class Gradients:
    """The gradients that autograd's engine holds.

    Attributes:
        stand: whether the parameters' gradients exist already, so that new ones are added.
        arrived: for each tensor of the tape, the name of the gradient that has arrived for it.
        views: the parameters whose gradients are views, by the name of the gradient that they hold whole.
    """

    def __init__(self, tape: Tape, memory: Memory, stand: bool) -> None:
        self.memory, self.stand = memory, stand
        self.arrived: dict[str, str] = {}
        self.views: dict[str, list[Parameter]] = {}
        self._tape = tape
        self._shown: set[str] = set()
        self._uses = Counter(name for op in tape for name in op.params.values())
        self._seen: Counter[str] = Counter()

    def arrive(self, tensor: str, buffer: str) -> None:
        """A gradient for a tensor: it is added to what has arrived, in place where nobody else holds one. (A view's
        base holds it, too.)"""
        memory, there = self.memory, self.arrived.get(tensor)
        if there is None:
            self.arrived[tensor] = buffer
        elif self._alone(there):
            memory.drop(buffer)
        elif self._alone(buffer):
            memory.drop(there)
            self.arrived[tensor] = buffer
        else:
            self.arrived[tensor] = self.new_buffer(tensor)
            memory.drop(there, buffer)

    def any_of(self, *made: Tensor) -> bool:
        """Whether a gradient has arrived for one of them."""
        return any(tensor.name in self.arrived for tensor in made)

    def arrive_at(self, parameter: Parameter) -> list[str]:
        """One of a parameter's gradients is made, and others are added to the first, in place; the sum to the gradient
        that stands, when all have arrived.

        Returns:
            what is dropped when the node has ended.
        """
        memory, name = self.memory, parameter.name
        self._seen[name] += 1
        first, last = self._seen[name] == 1, self._seen[name] == self._uses[name]
        total = f"new gradient of {name}" if self.stand else f"gradient of {name}"
        made = total if first else f"new gradient {self._seen[name]} of {name}"
        memory.take(made, parameter.bytes, "transient" if self.stand or not first else "gradient")
        return ([] if first else [made]) + ([total] if last and self.stand else [])

    def _alone(self, buffer: str) -> bool:
        return self.memory.holders(buffer) == 1 and buffer not in self._shown

    def new_buffer(self, tensor: str, view: bool = False) -> str:
        """Allocate a gradient of a tensor; ``view``: that the engine sees a view of."""
        self.memory.buffers += 1
        name = f"gradient {self.memory.buffers} of {tensor}"
        if view:
            self._shown.add(name)
        self.memory.take(name, self._tape.tensors[tensor].bytes)
        return name
