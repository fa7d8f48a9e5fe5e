"""What autograd holds of a forward operation."""

from __future__ import annotations

from collections.abc import Iterable

from bsr_explorer.cost.holders import Memory
from bsr_explorer.cost.step import Keep


class Recording:
    """A forward operation: what its rule takes is also held by autograd if it is kept."""

    def __init__(self, memory: Memory, keeps: Iterable[Keep], recorded: bool) -> None:
        """``recorded``: whether autograd keeps anything (not in the first run of what runs again)."""
        self._memory, self._recorded = memory, recorded
        keeps = list(keeps)
        # What goes elsewhere as it is, or is not kept, is still there for what would compute again from it.
        self._lent = {
            keep.name
            for keep in keeps
            if keep.how.packs and not keep.how.copies and (keep.passing if recorded else keep.how.itself)
        }
        self.lent: list[str] = []
        self._keeps = {
            keep.name: keep for keep in keeps if recorded or (keep.how.packs and not keep.how.itself)
        }
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
        if keep.how.itself:
            self._memory.hold(keep.name, "saved")
            self.held.append(keep.name)
            return
        stored = f"{keep.name} as {keep.how}"
        if self._memory.holders(stored):
            self._memory.hold(stored)
        else:
            self._memory.take(stored, keep.bytes, "saved", keep.pieces)
            form = f"{stored}, on its way"
            if keep.how.packs and keep.how.copies and not keep.how.again and keep.passing:
                self._memory.take(form, keep.passing)
                if not keep.by_hooks:
                    (self.lent if self._recorded else self._forms).append(form)
            if self._recorded:
                self._memory.follow("packing", keep.packing)
            if self._memory.holders(form) and keep.by_hooks:
                self._memory.drop(form)
        (self.held if self._recorded else self._forms).append(stored)

    def pack(self, name: str) -> None:
        if name in self._keeps and not self._keeps[name].how.itself:
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
        if name in self._keeps and self._keeps[name].how.itself:
            self._keep(self._keeps[name])

    def scratch(self, *sizes: int) -> None:
        self._memory.scratch(*sizes)

    def drop(self, *names: str) -> None:
        for name in names:
            if name in self.taken:
                del self.taken[name]
                if name in self._lent:  # to the operation that would compute again from it
                    self.lent.append(name)
                else:
                    self._memory.drop(name)
