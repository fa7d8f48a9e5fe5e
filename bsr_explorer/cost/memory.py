"""Memory over time: who holds which tensor through the forward and the backward pass of a tape.

Three parties hold a tensor. *Frames*: a Python function that was given it, or made it, until it returns or
gives the name to something else. *Autograd*, which keeps what backward needs until the node that needs it
has run. *The engine*, which holds gradients on their way. A tensor is freed when nobody holds it. All of
this is read in Python's calling convention and in torch's autograd engine, and compared with the
allocator's own record of a real step (``tests/cost/test_peak.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bsr_explorer.cost.rules import Context, rule_of
from bsr_explorer.cost.step import Keep, Recomputed, contexts, kept_by_op, recomputed
from bsr_explorer.tape import DENSE, Op, Parameter, Tape


class Moment(NamedTuple):
    """When: ``phase`` is ``standing``, ``forward``, ``backward`` or ``optimizer``; ``block`` is 0-based."""

    phase: str
    block: int | None
    operation: str


class Event(NamedTuple):
    """Something was allocated (``change`` > 0) or freed (< 0), in bytes."""

    change: int
    name: str
    moment: Moment


class Memory:
    """Tensors by name, each with its size and the number of its holders.

    Attributes:
        events: everything that was allocated and freed, in order.
        kinds: the ledger's kind of each name; ``transient`` where nothing is said.
    """

    def __init__(self, granularity: int = 1) -> None:
        """``granularity``: the allocator rounds sizes up to a multiple of so many bytes."""
        self.events: list[Event] = []
        self.kinds: dict[str, str] = {}
        self.moment = Moment("standing", None, "")
        self._granularity = granularity
        self._sizes: dict[str, int] = {}
        self._holders: Counter[str] = Counter()

    def take(self, name: str, size: int, kind: str = "transient") -> None:
        """Allocate; the caller holds it."""
        self.found(name, size, kind)
        self.events.append(Event(self._sizes[name], name, self.moment))

    def found(self, name: str, size: int, kind: str = "transient") -> None:
        """It was allocated before the record begins; the caller holds it."""
        assert not self._holders[name], f"{name} is already there"
        self._sizes[name] = -(-size // self._granularity) * self._granularity
        self._holders[name] = 1
        if kind != "transient":
            self.kinds[name] = kind

    def hold(self, name: str, kind: str | None = None) -> None:
        """One more holder."""
        assert self._holders[name], f"{name} is gone"
        self._holders[name] += 1
        if kind is not None:
            self.kinds[name] = kind

    def drop(self, *names: str) -> None:
        """One holder less of each; freed with the last."""
        for name in names:
            assert self._holders[name], f"{name} is gone"
            self._holders[name] -= 1
            if not self._holders[name]:
                self.events.append(Event(-self._sizes[name], name, self.moment))

    def size(self, name: str) -> int:
        """Bytes of a tensor that is, or was, there."""
        return self._sizes[name]

    def holders(self, name: str) -> int:
        """How many hold it."""
        return self._holders[name]


class _Frames:
    """When the Python frames of a model let go of each tensor: after which operation of the tape."""

    def __init__(self, tape: Tape, fed_at: str) -> None:
        self._last = {}
        for index, op in enumerate(tape):
            for path in _paths(op.name):
                self._last[path] = index
            if op.name != "loss":  # which the model does not call
                self._last[""] = index
        made_at = {tensor.name: fed_at for tensor in tape.inputs if tensor.role == "activation"}
        self.ends: dict[str, int] = {}
        for index, op in enumerate(tape):
            for name in (*op.reads, *(p for p in op.params.values() if p not in tape.parameters)):
                if name in made_at:
                    storage = tape.tensors[name].storage
                    end = self._end(made_at[name], index, op, name)
                    self.ends[storage] = max(self.ends.get(storage, 0), end)
            made_at[op.writes] = op.name
        for op in tape:
            if op.attrs.get("cached"):  # autocast holds its copies of trained weights until it is left
                self.ends[op.writes] = len(tape.ops)

    def _end(self, made_at: str, index: int, op: Op, name: str) -> int:
        """The outermost call that the tensor is given to holds it until it returns; a frame that uses its
        own local variable gives the name away at once, unless the variable stays."""
        shared, reader = _paths(made_at), _paths(op.name)
        depth = sum(1 for a, b in zip(shared, reader, strict=False) if a == b)
        if depth < len(reader):
            return self._last[reader[depth]]
        stays = _STAYING.get(op.kind) == op.reads.index(name) if name in op.reads else False
        return self._last[op.name] if stays else index

    def end_of(self, path: str) -> int:
        """The last operation within a module."""
        return self._last[path]


_STAYING = {"attention": 0, "gate_half": 1, "mean_tokens": 0, "select_token": 0}
"""Kinds whose caller keeps a local variable of the tensor at this place until it returns. (That of pooling
is the model.)"""


def _paths(name: str) -> list[str]:
    """A module path and those around it, outermost first: ``blocks``, ``blocks.3``, ``blocks.3.attn``."""
    parts = name.split(".") if name else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


class Pass:
    """The forward and the backward pass of a tape, or of a part of one, as events in a memory.

    Args:
        live_inputs: for a part, whether something trains below it.
        fed_at: for a part, the module path from which it is fed.
        gradients_stand: whether the parameters' gradients exist already, so that new ones are added.
    """

    def __init__(
        self,
        tape: Tape,
        memory: Memory,
        live_inputs: bool = False,
        fed_at: str = "",
        gradients_stand: bool = False,
    ) -> None:
        self.tape, self.memory, self.gradients_stand = tape, memory, gradients_stand
        self.contexts = list(contexts(tape, live_inputs))
        self.needs = tape.needs_grad(live_inputs)
        self._frames = _Frames(tape, fed_at)
        self._keeps = kept_by_op(tape, self.contexts)
        self._again = recomputed(tape, self.contexts)
        self._held: list[list[str]] = [[] for _ in self.contexts]
        self._arrived: dict[str, str] = {}
        self._buffers = 0
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
        self, index: int, phase: str, recorded: bool, frames: dict[str, int], compute: bool = True
    ) -> None:
        """One operation: it takes what it makes, autograd holds what it keeps, frames let go after it."""
        c, memory = self.contexts[index], self.memory
        memory.moment = Moment(phase, c.op.block, c.op.name)
        recording = _Recording(memory, self._keeps[index], recorded)
        recording.begin()
        if compute:
            rule_of(c.op).run(c, recording)
        recording.end()
        self._held[index] += recording.held
        for name in recording.taken:
            if name == c.writes.name:
                frames[name] = self._frames.ends.get(name, len(self.contexts) + 1)
            else:
                frames[name] = self._frames.end_of(c.op.name)
        for name in recording.numbers:  # held by a graph of its own until the segment has run again
            frames[name] = len(self.contexts) + 1
        self._leave(frames, index)

    def _leave(self, frames: dict[str, int], index: int) -> None:
        """Frames let go of what ends with this operation."""
        for name in [name for name, end in frames.items() if end <= index]:
            del frames[name]
            self.memory.drop(name)

    # --- backward ---------------------------------------------------------------------------------------

    def begin_backward(self) -> None:
        """The loss's own gradient arrives."""
        loss = self.contexts[-1]
        self.memory.moment = Moment("backward", None, "loss")
        self.memory.take("gradient of the loss", loss.writes.bytes)
        self.memory.hold("gradient of the loss")  # by the caller of backward, until it returns
        self._arrived[loss.writes.name] = "gradient of the loss"

    def feed_gradient(self) -> None:
        """For a part: the gradient of what it writes last has arrived from above."""
        last = self.contexts[-1].writes
        self.memory.found("gradient from above", last.bytes)
        self._arrived[last.name] = "gradient from above"

    def backward(self) -> None:
        """Unwind what autograd recorded, the last operation first."""
        for index in reversed(range(len(self.contexts))):
            c = self.contexts[index]
            if not self.needs[c.writes.name]:
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
        for index in segment.indices:
            compute = segment.computes_last or index != segment.indices[-1]
            self._run(index, "backward", True, frames, compute)
        self._leave(frames, len(self.contexts) + 1)

    def _unwind(self, index: int) -> None:
        c = self.contexts[index]
        self.memory.moment = Moment("backward", c.op.block, c.op.name)
        unwinding = _Unwinding(
            self, c, self._arrived.pop(c.writes.name), self._held[index], self._keeps[index]
        )
        rule_of(c.op).unwind(c, unwinding)
        unwinding.finish()
        self._held[index] = []

    def arrive(self, tensor: str, buffer: str) -> None:
        """A gradient for a tensor: it is added to what has arrived, in place where nobody else holds one."""
        memory, there = self.memory, self._arrived.get(tensor)
        if there is None:
            self._arrived[tensor] = buffer
        elif memory.holders(there) == 1:
            memory.drop(buffer)
        elif memory.holders(buffer) == 1:
            memory.drop(there)
            self._arrived[tensor] = buffer
        else:
            self._arrived[tensor] = self.new_buffer(tensor)
            memory.drop(there, buffer)

    def new_buffer(self, tensor: str) -> str:
        """Allocate a gradient of a tensor."""
        self._buffers += 1
        name = f"gradient {self._buffers} of {tensor}"
        self.memory.take(name, self.tape.tensors[tensor].bytes)
        return name


class _Recording:
    """A forward operation: what its rule takes is also held by autograd if it is kept."""

    def __init__(self, memory: Memory, keeps: Iterable[Keep], recorded: bool) -> None:
        """``recorded``: whether autograd keeps anything (not in the first run of what runs again)."""
        self._memory, self._recorded = memory, recorded
        self._keeps = {keep.name: keep for keep in keeps if recorded or keep.how.packs}
        self.taken: dict[str, None] = {}
        self.held: list[str] = []
        self.numbers: list[str] = []
        self._forms: list[str] = []

    def begin(self) -> None:
        """What is kept of what exists already is packed, or held by autograd."""
        for keep in self._keeps.values():
            if self._memory.holders(keep.name):
                self._keep(keep)

    def _keep(self, keep: Keep) -> None:
        if keep.how is DENSE:
            self._memory.hold(keep.name, "saved")
            self.held.append(keep.name)
            return
        stored = f"{keep.name} as {keep.how}"
        if self._memory.holders(stored):
            self._memory.hold(stored)
        else:
            self._memory.take(stored, keep.bytes, "saved")
            if keep.how.packs and keep.passing:
                self._memory.take(f"{stored}, on its way", keep.passing)
                self._forms.append(f"{stored}, on its way")
            if keep.pack_scratch and self._recorded:
                self._memory.take("packing", keep.pack_scratch)
                self._memory.drop("packing")
        (self.held if self._recorded else self._forms).append(stored)

    def pack(self, name: str) -> None:
        if name in self._keeps and self._keeps[name].how is not DENSE:
            self._keep(self._keeps[name])

    def end(self) -> None:
        """What was made in the form of packed tensors, and is not kept, goes."""
        self._memory.drop(*self._forms)

    def keep_number(self, name: str, size: int) -> None:
        if self._memory.holders(name):  # the first run of a segment holds it, for no hook took it away
            self._memory.take(f"{name} again", size)
            self.numbers.append(f"{name} again")
        else:
            self._memory.take(name, size)

    def take(self, name: str, size: int) -> None:
        self._memory.take(name, size)
        self.taken[name] = None
        if name in self._keeps and self._keeps[name].how is DENSE:
            self._keep(self._keeps[name])

    def drop(self, *names: str) -> None:
        for name in names:
            if name in self.taken:
                del self.taken[name]
                self._memory.drop(name)


class _Unwinding:
    """A backward operation."""

    def __init__(self, whole: Pass, c: Context, arrived: str, held: list[str], keeps: Iterable[Keep]) -> None:
        self._pass, self._memory, self._c = whole, whole.memory, c
        self._arrived: str | None = arrived
        self._incoming = arrived
        self._held = list(held)
        self._given: list[tuple[str, str]] = []
        self._own: set[str] = set()
        self._unpacked: list[str] = []
        self._elsewhere = [keep for keep in keeps if keep.how is not DENSE]
        rule = rule_of(c.op)
        self._one_node = not rule.several_nodes(c)
        self._passing = []
        if rule.unpacks:
            for keep in self._elsewhere:
                if keep.passing:
                    self._passing.append(f"{keep.name} on its way back")
                    self._memory.take(self._passing[-1], keep.passing)
        elif self._one_node:
            self.bring_back(*(keep.name for keep in self._elsewhere))
        self._added: list[str] = []

    def bring_back(self, *kept: str) -> None:
        self._let_go_of_unpacked()
        for keep in self._elsewhere:
            if keep.name in kept and (keep.how.packs or not self._passing):
                name = f"{keep.name} unpacked"
                self._memory.take(name, keep.dense_bytes)
                self._unpack(keep)
                self._unpacked.append(name)

    def _unpack(self, keep: Keep) -> None:
        if keep.unpack_scratch:
            self._memory.take("unpacking", keep.unpack_scratch)
            self._memory.drop("unpacking")

    def forget(self, kept: str) -> None:
        name = f"{kept} unpacked"
        if name in self._unpacked:
            self._unpacked.remove(name)
            self._memory.drop(name)

    def restore_into(self, read: int, kept: str) -> None:
        self.give(read)
        for keep in self._elsewhere:
            if keep.name == kept:
                self._unpack(keep)

    def take(self, name: str, size: int) -> None:
        self._memory.take(name, size)
        self._own.add(name)

    def drop(self, *names: str) -> None:
        for name in names:
            if self._memory.holders(name):
                self._own.discard(name)
                self._memory.drop(name)

    def give(self, read: int) -> None:
        tensor = self._c.reads[read].name
        if any(name == tensor for name, _ in self._given):
            self._deliver()
        self._given.append((tensor, self._pass.new_buffer(tensor)))

    def pass_on(self, read: int) -> None:
        self._memory.hold(self._incoming)
        self._given.append((self._c.reads[read].name, self._incoming))

    def give_part(self, part: str) -> None:
        target = self._c.params[part]
        if not isinstance(target, Parameter):
            self._given.append((target.name, self._pass.new_buffer(target.name)))
        elif self._pass.gradients_stand:
            name = f"new gradient of {target.name}"
            self._memory.take(name, target.bytes)
            self._added.append(name)
        else:
            self._memory.take(f"gradient of {target.name}", target.bytes, "gradient")

    def view_part(self, part: str) -> None:
        if not self._pass.gradients_stand:
            self._memory.hold(self._incoming)

    def _let_go_of_unpacked(self) -> None:
        self._memory.drop(*self._unpacked)
        self._unpacked = []

    def end_call(self) -> None:
        self._let_go_of_unpacked()
        self._memory.drop(*self._passing)
        self._passing = []
        if self._c.op.segment and self._one_node:
            self._memory.drop(*self._held)
            self._held = []

    def end_node(self, *kept: str) -> None:
        if self._arrived is not None:
            self._memory.drop(self._arrived)
            self._arrived = None
        self._let_go(*kept)

    def let_go(self, *kept: str) -> None:
        self._let_go(*kept)
        self._deliver()

    def _let_go(self, *kept: str) -> None:
        for name in kept:
            if name in self._held:
                self._held.remove(name)
                self._memory.drop(name)

    def _deliver(self) -> None:
        for tensor, buffer in self._given:
            self._pass.arrive(tensor, buffer)
        self._given = []

    def finish(self) -> None:
        """The last node ended."""
        self.end_call()
        self.end_node(*self._held)
        self._memory.drop(*self._added)
        self._deliver()
