"""The backward of one operation: what it allocates, unpacks and passes on."""

from __future__ import annotations

from collections.abc import Iterable

from bsr_explorer.cost.gradients import Gradients
from bsr_explorer.cost.step import Keep
from bsr_explorer.operations.kinds import rule_of
from bsr_explorer.operations.rule import Context
from bsr_explorer.tape import Parameter


class Unwinding:
    """A backward operation."""

    def __init__(self, gradients: Gradients, c: Context, held: list[str], keeps: Iterable[Keep]) -> None:
        self._gradients, self._memory, self._c = gradients, gradients.memory, c
        self._incoming = {
            number: gradients.arrived.pop(made.name)
            for number, made in enumerate((c.writes, *c.others))
            if made.name in gradients.arrived
        }
        self._arrived = dict(self._incoming)
        self._held = list(held)
        self._given: list[tuple[str, str]] = []
        self._own: set[str] = set()
        self._unpacked: list[str] = []
        self._elsewhere = [keep for keep in keeps if not keep.how.itself]
        rule = rule_of(c.op)
        self._one_node = not rule.several_nodes(c)
        self._passing = []
        if rule.unpacks:
            for keep in self._elsewhere:
                if keep.passing and not keep.by_hooks:
                    self._passing.append(f"{keep.name} on its way back")
                    self._memory.take(self._passing[-1], keep.passing)
        elif self._one_node:
            self.bring_back(*(keep.name for keep in self._elsewhere))
        self._added: list[str] = []

    def bring_back(self, *kept: str) -> None:
        self._let_go_of_unpacked()
        for keep in self._elsewhere:
            back = bool(self._passing) and not (keep.how.packs and keep.how.copies)
            if keep.name in kept and not back:
                name = f"{keep.name} unpacked"
                self._memory.take(name, keep.dense_bytes)
                self._unpack(keep)
                self._unpacked.append(name)

    def restore(self, kept: str) -> None:
        for keep in self._elsewhere:
            if keep.name == kept:
                name = f"{kept} unpacked"
                if self._memory.holders(name):
                    self._memory.hold(name)
                else:
                    self._memory.take(f"{kept} on its way back", keep.passing)
                    self._memory.take(name, keep.dense_bytes)
                    self._unpack(keep)
                    self._memory.drop(f"{kept} on its way back")
                self._unpacked.append(name)

    def _unpack(self, keep: Keep) -> None:
        self._memory.follow("unpacking", keep.unpacking)

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

    def scratch(self, *sizes: int) -> None:
        self._memory.scratch(*sizes)

    def drop(self, *names: str) -> None:
        for name in names:
            if self._memory.holders(name):
                self._own.discard(name)
                self._memory.drop(name)

    def give(self, read: int, view: bool = False) -> None:
        tensor = self._c.reads[read].name
        if any(name == tensor for name, _ in self._given):
            self._deliver()
        self._given.append((tensor, self._gradients.new_buffer(tensor, view)))

    def pass_on(self, read: int, result: int = 0) -> None:
        if result in self._incoming:
            self._memory.hold(self._incoming[result])
            self._given.append((self._c.reads[read].name, self._incoming[result]))

    def give_part(self, part: str) -> None:
        target = self._c.params[part]
        if not isinstance(target, Parameter):
            self._given.append((target.name, self._gradients.new_buffer(target.name)))
        else:
            self._added += self._gradients.arrive_at(target)

    def view_part(self, part: str, result: int = 0) -> None:
        target, incoming = self._c.params[part], self._incoming[result]
        if not isinstance(target, Parameter):
            self._memory.hold(incoming)
            self._given.append((target.name, incoming))
        elif not self._gradients.stand:
            self._memory.hold(incoming)
            self._gradients.views.setdefault(incoming, []).append(target)

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
        self._let_go_of_unpacked()
        self._memory.drop(*self._arrived.values())
        self._arrived = {}
        self._let_go(*kept)

    def release(self, *kept: str) -> None:
        self._let_go(*kept, *(f"{keep.name} as {keep.how}" for keep in self._elsewhere if keep.name in kept))

    def release_gradient(self, result: int) -> None:
        if result in self._arrived:
            self._memory.drop(self._arrived.pop(result))

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
            self._gradients.arrive(tensor, buffer)
        self._given = []

    def finish(self) -> None:
        """The last node ended."""
        self.end_call()
        self.end_node(*self._held)
        self._memory.drop(*self._added)
        self._deliver()
