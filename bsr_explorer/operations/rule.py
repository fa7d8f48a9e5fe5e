"""What a rule is: what an operation keeps, computes and allocates.

Rules are read in torch's derivative formulas and confirmed, byte by byte and FLOP by FLOP, against real steps
(``tests/operations``). Conventions: 2 FLOPs a multiply-add; matrix products and convolutions only, as torch's
``FlopCounterMode`` counts. What a kernel allocates and gives back within one call (its scratch) depends on a CPU's
threads and libraries, and is nobody's rule there: a measurement reports it apart. On CUDA torch's allocator hands it
out, and it follows from the card: the device says it (``Device.sum_scratch``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from bsr_explorer.devices import Device
from bsr_explorer.operations.op import Op, Parameter, Part, Tensor
from bsr_explorer.storages.storage import Shape


@dataclass(frozen=True)
class Context:
    """What a rule may ask about the operation that it judges.

    Attributes:
        needs: for each tensor that is read, whether the operation hands it a gradient.
        part_needs: the same for each part (a parameter gets a gradient if it trains).
        device: what it runs on.
        others: further tensors that it makes.
    """

    op: Op
    reads: tuple[Tensor, ...]
    writes: Tensor
    params: dict[str, Part]
    needs: tuple[bool, ...]
    part_needs: dict[str, bool]
    device: Device
    others: tuple[Tensor, ...] = ()

    def trains(self, part: str) -> bool:
        """Whether what plays this part exists and gets a gradient."""
        return self.part_needs.get(part, False)

    @cached_property
    def live(self) -> bool:
        """Whether autograd records this operation at all."""
        return any(self.needs) or any(self.part_needs.values())

    def own(self, name: str) -> str:
        """Name of a tensor that only this operation knows."""
        return f"{self.op.name}:{name}"


@dataclass(frozen=True)
class Kept:
    """A tensor that the operation keeps: one of the tape's, or one of its own.

    Attributes:
        needed: shape of the part that backward needs at once, if it is not the whole (which is kept all the
            same, for a view holds its storage).
        as_made: whether it is packed by hooks, in this shape (as what it is a view of lies in memory), in groups that
            fit.
        stored_as: of a tensor of the operation's own, the tensor whose storage it shares; nothing: what is said of
            itself.
    """

    tensor: str
    shape: Shape
    dtype: str = "fp32"
    needed: Shape | None = None
    as_made: bool = False
    stored_as: str = ""


class Taking(Protocol):
    """Tensors come into being, and are let go by who holds them."""

    def take(self, name: str, size: int) -> None:
        """Allocate a tensor of so many bytes."""
        ...

    def drop(self, *names: str) -> None:
        """Let go of tensors: each is freed unless autograd keeps it."""
        ...

    def scratch(self, *sizes: int) -> None:
        """Allocate what a kernel takes on the way, by its own rule, and free it, the last first."""
        ...


class Forward(Taking, Protocol):
    """A forward pass as a rule sees it."""

    def keep_number(self, name: str, size: int) -> None:
        """Allocate a Python number that autograd keeps as a tensor, which no hook on saved tensors sees;
        the backward pass drops it."""
        ...

    def pack(self, name: str) -> None:
        """Now pack a tensor that the operation has made. (What it read is packed before it runs.)"""
        ...


class Backward(Taking, Protocol):
    """A backward pass as a rule sees it."""

    def give(self, read: int, view: bool = False) -> None:
        """Allocate the gradient of a tensor that the operation read.

        Args:
            view: whether it is handed on as a view (a product of rows that is given its dimensions again). To such a
                one, what another operation gives for the same tensor is never added in place.
        """
        ...

    def pass_on(self, read: int, result: int = 0) -> None:
        """Let the gradient that arrived (of several results, of this one) stand for that of a tensor that the operation
        read."""
        ...

    def give_part(self, part: str) -> None:
        """Allocate the gradient of a parameter, or of a tensor that plays its part."""
        ...

    def view_part(self, part: str, result: int = 0) -> None:
        """Let a parameter's gradient be a view of the gradient that arrived, which it holds."""
        ...

    def bring_back(self, *kept: str) -> None:
        """The next node needs these kept tensors: those that are not stored as they are are brought back,
        until it ends. (A rule that never says so has one node that needs them all.)"""
        ...

    def restore(self, kept: str) -> None:
        """This kept tensor is brought back, beside others, until it is forgotten as often."""
        ...

    def forget(self, kept: str) -> None:
        """What was brought back of this kept tensor is no longer needed."""
        ...

    def restore_into(self, read: int, kept: str) -> None:
        """Allocate the gradient of a tensor that the operation read, unpack what is kept in it, and overwrite it."""
        ...

    def end_call(self) -> None:
        """The node's own call ended, and the engine goes on with its results: what was brought back or
        recomputed for the call is let go."""
        ...

    def let_go(self, *kept: str) -> None:
        """An autograd node ended, and others still see the gradient that arrived: pass on what it gave, and
        let go of these kept tensors."""
        ...

    def release(self, *kept: str) -> None:
        """Autograd lets go of these kept tensors."""
        ...

    def release_gradient(self, result: int) -> None:
        """Autograd lets go of the gradient that arrived of a result."""
        ...

    def end_node(self, *kept: str) -> None:
        """An autograd node ended, and more of this operation's follow: let go of the gradient that
        arrived, of what was brought back, and of these kept tensors."""
        ...


# --- what a rule is made of -----------------------------------------------------------------------------


def kept(tensor: Tensor | Parameter, needed: Shape | None = None) -> Kept:
    """A tensor of the tape, or a parameter, as it is."""
    return Kept(tensor.name, tensor.shape, tensor.dtype, needed)


def own(c: Context, name: str, shape: Shape, dtype: str = "fp32") -> Kept:
    """A tensor that only the operation knows."""
    return Kept(c.own(name), shape, dtype)


def nothing(c: Context) -> list[Kept]:
    """Keeps nothing."""
    return []


def zero(c: Context) -> int:
    """No FLOPs."""
    return 0


def write(c: Context, m: Forward) -> None:
    """A forward pass that allocates its result, unless that is a view, and nothing else."""
    if c.writes.storage == c.writes.name:
        m.take(c.writes.name, c.writes.bytes)


def untouched(c: Context, m: Forward) -> None:
    """A forward pass that allocates nothing."""


def give_all(c: Context, b: Backward) -> None:
    """A backward pass of one node: gradients of what was read, then of what trains."""
    for read, needs in enumerate(c.needs):
        if needs:
            b.give(read)
    for part in c.params:
        if c.trains(part):
            b.give_part(part)


class Lacking(NamedTuple):
    """What of an operation cannot be counted: the figures (of a ledger) that it makes bounds, and why."""

    figures: tuple[str, ...] = ()
    why: str = ""


NOTHING = Lacking()


def all_counted(c: Context) -> Lacking:
    """Nothing lacks."""
    return NOTHING


def one_node(c: Context) -> bool:
    """Autograd has one node for it."""
    return False


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What an operation keeps, computes and allocates, run in one way. The defaults are those of an operation that
    keeps nothing, computes no product, and makes nothing on the way.

    Attributes:
        keeps: what is kept for backward, given what needs a gradient; parameters too.
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass, given what needs a gradient.
        run: what the forward pass allocates and lets go, in order.
        begin: what it allocates until all that it keeps is there, where that is before it has computed.
        unwind: what the backward pass allocates and lets go. When it returns, the gradient that arrived and what is
            still kept are let go.
        keeps_results: whether something kept is known only after computing, so that a recomputation
            which ends as soon as all is kept again has to compute it; or what says so of an operation.
        several_nodes: whether autograd has several nodes for it that need kept tensors; the backward pass
            then says when each does (``bring_back``, ``end_node``).
        lacks: what of it cannot be counted, where a prediction may be a bound.
        unpacks: whether it is one node that says itself when it needs what is kept (``bring_back``).
    """

    keeps: Callable[[Context], list[Kept]] = nothing
    forward: Callable[[Context], int] = zero
    backward: Callable[[Context], int] = zero
    run: Callable[[Context, Forward], None] = write
    begin: Callable[[Context, Forward], None] = untouched
    unwind: Callable[[Context, Backward], None] = give_all
    keeps_results: bool | Callable[[Context], bool] = False
    several_nodes: Callable[[Context], bool] = one_node
    unpacks: bool = False
    lacks: Callable[[Context], Lacking] = all_counted

    def computes(self, c: Context) -> bool:
        """Whether an operation has to be computed before all that it keeps is there."""
        return self.keeps_results(c) if callable(self.keeps_results) else self.keeps_results

    def packed(self, **changes: Any) -> Rule:
        """The rule of the same operation as a function of ``storages.functions`` that packs what it keeps.

        Such a function is one autograd node, whose backward brings tensors back one after another and lets them go
        before the next. What is kept is known after computing only, for it saves when its forward has returned.

        Args:
            changes: fields that differ.
        """
        return replace(self, keeps_results=True, several_nodes=one_node, unpacks=True, **changes)
