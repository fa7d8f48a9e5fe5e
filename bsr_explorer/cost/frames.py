"""When the Python frames of a model let go of each tensor."""

from __future__ import annotations

from functools import lru_cache

from bsr_explorer.operations.kinds import kind_of
from bsr_explorer.tape import Op, Tape


class Frames:
    """When the Python frames of a model let go of each tensor: after which operation of the tape.

    Attributes:
        ends: of each storage, that operation.
        depths: how deep the frame lies that holds it last. Of what ends with one operation, the innermost frames let go
            first.
    """

    def __init__(self, tape: Tape, fed_at: str = "") -> None:
        """``fed_at``: for a part of a step, the module path from which it is fed."""
        outside = {
            op.name for op in tape if kind_of(op).is_loss
        }  # the model calls neither the loss nor its casts
        self._last = {}
        for index, op in enumerate(tape):
            for path in _paths(op.name):
                self._last[path] = index
            if op.name not in outside:
                self._last[""] = index
        made_at = {tensor.name: fed_at for tensor in tape.inputs if tensor.role == "activation"}
        self.ends: dict[str, int] = {}
        self.depths: dict[str, int] = {}
        for index, op in enumerate(tape):
            for name in (*op.reads, *(p for p in op.params.values() if p not in tape.parameters)):
                if name in made_at:
                    storage = tape.tensors[name].storage
                    end, depth = self._end(made_at[name], index, op, name)
                    if end >= self.ends.get(storage, 0):
                        self.ends[storage], self.depths[storage] = end, depth
            made_at[op.writes] = op.name
        if tape.held:
            self._as_seen(tape)
        for op in tape:
            if op.until:
                self.ends[tape.tensors[op.writes].storage] = self._last[op.until]
            if op.attrs.get("cached"):  # autocast holds its copies of trained weights until it is left
                self.ends[op.writes] = len(tape.ops)

    def _as_seen(self, tape: Tape) -> None:
        """What was traced ends as Python was seen to let go of it, but not before a method's own operations have read
        it; what these make ends as calls do."""
        at = {op.writes: index for index, op in enumerate(tape)}
        read: dict[str, int] = {}
        for index, op in enumerate(tape):
            if op.writes not in tape.traced:
                read.update({tape.tensors[name].storage: index for name in op.reads})
        self.ends = {storage: end for storage, end in self.ends.items() if storage not in tape.traced}
        for storage, last in tape.held.items():
            if last in at:
                self.ends[storage] = max(at[last], read.get(storage, 0))

    def _end(self, made_at: str, index: int, op: Op, name: str) -> tuple[int, int]:
        """Which operation is the last, and how deep the frame lies that holds the tensor then.

        The outermost call that the tensor is given to holds it until it returns; a frame that uses its
        own local variable gives the name away at once, unless the variable stays."""
        shared, reader = _paths(made_at), _paths(op.name)
        depth = sum(1 for a, b in zip(shared, reader, strict=False) if a == b)
        if depth < len(reader):
            return self._last[reader[depth]], depth
        stays = name in op.reads and kind_of(op).stays == op.reads.index(name)
        return self._last[op.name] if stays else index, len(reader)

    def depth(self, name: str) -> int:
        """How deep the frame lies that holds a tensor last; what only an operation knows, its own frame holds."""
        return self.depths[name] if name in self.depths else len(_paths(name.rpartition(":")[0]))

    def end_of(self, path: str) -> int:
        """The last operation within a module."""
        return self._last[path]


@lru_cache(maxsize=65536)
def _paths(name: str) -> tuple[str, ...]:
    """A module path and those around it, outermost first: ``blocks``, ``blocks.3``, ``blocks.3.attn``."""
    parts = name.split(".") if name else []
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))
