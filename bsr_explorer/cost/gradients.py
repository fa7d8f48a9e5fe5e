"""Gradients on their way through the backward pass."""

from __future__ import annotations

from bsr_explorer.cost.holders import Memory
from bsr_explorer.tape import Parameter, Tape


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

    def arrive(self, tensor: str, buffer: str) -> None:
        """A gradient for a tensor: it is added to what has arrived, in place where nobody else holds one."""
        memory, there = self.memory, self.arrived.get(tensor)
        if there is None:
            self.arrived[tensor] = buffer
        elif memory.holders(there) == 1:
            memory.drop(buffer)
        elif memory.holders(buffer) == 1:
            memory.drop(there)
            self.arrived[tensor] = buffer
        else:
            self.arrived[tensor] = self.new_buffer(tensor)
            memory.drop(there, buffer)

    def new_buffer(self, tensor: str) -> str:
        """Allocate a gradient of a tensor."""
        self.memory.buffers += 1
        name = f"gradient {self.memory.buffers} of {tensor}"
        self.memory.take(name, self._tape.tensors[tensor].bytes)
        return name
