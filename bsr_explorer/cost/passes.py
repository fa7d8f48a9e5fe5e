"""Memory over time: who holds which tensor through the forward and the backward pass of a tape.

Three parties hold a tensor. *Frames*: a Python function that was given it, or made it, until it returns or
gives the name to something else. *Autograd*, which keeps what backward needs until the node that needs it
has run. *The engine*, which holds gradients on their way. A tensor is freed when nobody holds it. All of
this is read in Python's calling convention and in torch's autograd engine, and compared with the
allocator's own record of a real step (``tests/cost/test_peak.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bsr_explorer.cost.frames import Frames
from bsr_explorer.cost.gradients import Gradients
from bsr_explorer.cost.holders import Memory, Moment
from bsr_explorer.cost.recording import Recording
from bsr_explorer.cost.step import Recomputed, Recorded
from bsr_explorer.cost.unwinding import Unwinding
from bsr_explorer.operations.kinds import rule_of
from bsr_explorer.tape import DENSE


class Pass:
    """The forward and the backward pass of a tape, or of a part of one, as events in a memory.

    Args:
        recorded: the tape, as autograd records it.
        frames: of the tape; for a part, with the module path from which it is fed.
        gradients_stand: whether the parameters' gradients exist already, so that new ones are added.

    Attributes:
        gradients: those that autograd's engine holds.
        until_end: after a forward pass that is not the model's last part: what is held until the model's ends.
    """

    def __init__(
        self,
        recorded: Recorded,
        memory: Memory,
        frames: Frames | None = None,
        gradients_stand: bool = False,
    ) -> None:
        tape = recorded.tape
        self.tape, self.memory, self.contexts = tape, memory, recorded.contexts
        self._frames = frames or Frames(tape)
        self._keeps, self._again = recorded.keeps, recorded.again
        self._held: list[list[str]] = [[] for _ in self.contexts]
        self.gradients = Gradients(tape, memory, gradients_stand)
        self.until_end: list[str] = []

    # --- forward ----------------------------------------------------------------------------------------

    def forward(self, to_the_end: bool = True) -> None:
        """Run every operation once.

        Args:
            to_the_end: whether the model's forward pass ends with this part; if not, what is held until
                then is left, and named in ``until_end``.
        """
        segments = {segment.first: segment for segment in self._again.values()}
        frames: dict[str, int] = {}
        for tensor in self.tape.inputs:
            if tensor.role == "activation" and tensor.name in self._frames.ends:
                frames[tensor.name] = self._frames.ends[tensor.name]
        for index, c in enumerate(self.contexts):
            if index in segments and segments[index].how is DENSE:
                for name in segments[index].inputs:
                    self.memory.hold(name, "saved")
            recorded = c.op.segment not in self._again
            self._run(index, "forward", recorded, frames)
        if to_the_end:
            self._leave(frames, len(self.contexts))
        self.until_end = [name for name, end in frames.items() if end == len(self.contexts)]

    def _run(
        self,
        index: int,
        phase: str,
        recorded: bool,
        frames: dict[str, int],
        compute: bool = True,
        leaves: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """One operation: it takes what it makes, autograd holds what it keeps, frames let go after it.

        Args:
            leaves: of some tensors, when frames let go of them, if it is not as in the forward pass.
        """
        c, memory = self.contexts[index], self.memory
        memory.moment = Moment(phase, c.op.block, c.op.name)
        recording = Recording(memory, self._keeps[index], recorded)
        recording.begin()
        rule = rule_of(c.op)
        (rule.run if compute else rule.begin)(c, recording)
        recording.end()
        self._held[index] += recording.held
        for name in recording.taken:
            if name == c.writes.name or name in c.op.others:
                frames[name] = leaves.get(name, self._frames.ends.get(name, len(self.contexts) + 1))
            else:
                frames[name] = self._frames.end_of(c.op.name)
        for name in recording.lent:
            frames[name] = self._borrower(index)
        for name in recording.numbers:  # held by a graph of its own until the segment has run again
            frames[name] = len(self.contexts) + 1
        self._leave(frames, index)

    def _borrower(self, index: int) -> int:
        """The last operation that computes again from what this one has made for itself."""
        last, made = index, {self.contexts[index].writes.name}
        for later in range(index + 1, len(self.contexts)):
            op = self.contexts[later].op
            if op.kind == self.contexts[index].op.kind:
                break
            if op.kind == "cast" and op.reads[0] in made:
                made.add(op.writes)
            if any(keep.how.again and keep.name in made for keep in self._keeps[later]):
                last = later
        return last

    def _leave(self, frames: dict[str, int], index: int) -> None:
        """Frames let go of what ends with this operation: the innermost first, of its own variables in order; and of
        what it is given, the last first."""
        ending = [name for name, end in frames.items() if end <= index]
        own = [name for name in ending if name not in self._frames.depths]
        given = [name for name in reversed(ending) if name in self._frames.depths]
        for name in sorted((*own, *given), key=self._frames.depth, reverse=True):
            del frames[name]
            self.memory.drop(name)

    # --- backward ---------------------------------------------------------------------------------------

    def begin_backward(self) -> None:
        """The loss's own gradient arrives."""
        loss = self.contexts[-1]
        self.memory.moment = Moment("backward", None, "loss")
        self.memory.take("gradient of the loss", loss.writes.bytes)
        self.memory.hold("gradient of the loss")  # by the caller of backward, until it returns
        self.gradients.arrived[loss.writes.name] = "gradient of the loss"

    def feed_gradient(self) -> None:
        """For a part: the gradient of what it writes last has arrived from above."""
        last = self.contexts[-1].writes
        self.memory.found("gradient from above", last.bytes)
        self.gradients.arrived[last.name] = "gradient from above"

    def backward(self) -> None:
        """Unwind what autograd recorded, the last operation first."""
        for index in reversed(range(len(self.contexts))):
            c = self.contexts[index]
            if not c.live or not self.gradients.any_of(c.writes, *c.others):
                continue
            segment = self._again.get(c.op.segment)
            if segment is not None and index == segment.indices[-1]:
                self._recompute(segment)
            self._unwind(index)
            if segment is not None and index == segment.last_unwound and segment.how is DENSE:
                self.memory.drop(*segment.inputs)

    def end_backward(self) -> None:
        """The caller of backward lets go of the loss and of its gradient."""
        self.memory.drop(self.contexts[-1].writes.name, "gradient of the loss")

    def _recompute(self, segment: Recomputed) -> None:
        """Run a segment again, this time recorded, until all that it keeps is there."""
        frames: dict[str, int] = {}
        if segment.how is not DENSE:
            self.memory.moment = Moment("backward", segment.block, segment.name)
            for name in segment.inputs:
                self.memory.take(name, self.tape.tensors[name].bytes, "saved")
                frames[name] = len(self.contexts)
        leaves = self._leaves(segment)
        for index in segment.indices:
            compute = segment.computes_last or index != segment.indices[-1]
            self._run(index, "backward", True, frames, compute, leaves)
        self._leave(frames, len(self.contexts) + 1)

    def _leaves(self, segment: Recomputed) -> dict[str, int]:
        """What a segment hands on beside its output, which nobody takes when it runs again: when its last reader in the
        segment has returned, it goes."""
        inside = {i: self.contexts[i].op for i in segment.indices}
        made = {op.writes for op in inside.values()}
        handed_on = {
            name
            for i, c in enumerate(self.contexts)
            if i > segment.indices[-1] and c.op.segment != segment.name
            for name in c.op.reads
            if name in made
        }
        return {
            name: self._frames.end_of(op.name)
            for op in inside.values()
            for name in op.reads
            if name in handed_on
        }

    def _unwind(self, index: int) -> None:
        c = self.contexts[index]
        self.memory.moment = Moment("backward", c.op.block, c.op.name)
        unwinding = Unwinding(self.gradients, c, self._held[index], self._keeps[index])
        rule_of(c.op).unwind(c, unwinding)
        unwinding.finish()
        self._held[index] = []
