"""Gradients on their way through the backward pass."""

from __future__ import annotations

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
