"""A call of any function of torch, as a traced model makes it: what it keeps and computes is found by making it.

Other kinds have rules that somebody has read in torch's derivative formulas. A traced model may call what nobody has
read. Each such call carries an ``Observer``, which makes the same call with tensors that have shapes and no memory, and
says what autograd then did (``models.traced.observed``). Nothing is guessed: a call that cannot be made so is refused
by name; or, where a bound is asked for, what lacks of it is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.op import EVERYTHING, Op, Part, Tensor
from bsr_explorer.operations.rule import NOTHING, Backward, Context, Forward, Kept, Lacking, Rule
from bsr_explorer.storages.by_call import CALLS, Packs
from bsr_explorer.storages.by_call import NOTHING as UNPACKED
from bsr_explorer.storages.storage import Shape


class Happening(NamedTuple):
    """Something that happens to memory while a call, or its backward, runs.

    Attributes:
        what: ``take`` or ``drop`` memory of its own; ``make`` a result; ``give`` the gradient of an argument, or
            ``pass`` the one that arrived on as such; ``let_go`` of something kept; ``gone``: a gradient that arrived is
            no longer held. Of what is kept packed: ``pack`` it, ``restore`` it, and ``forget`` what was restored.
        which: number of the memory, of the result, of the argument, or of what is kept.
        bytes: what is taken.
        source: of ``pass``, the result whose gradient is passed on.
    """

    what: Literal["take", "drop", "make", "give", "pass", "let_go", "gone", "pack", "restore", "forget"]
    which: int
    bytes: int = 0
    source: int = 0


class Holds(NamedTuple):
    """What is kept for backward: an argument, a result, or memory of its own, by number, of so many bytes.

    Attributes:
        packed: whether it is kept packed.
        shape, dtype: of memory of its own that is packed.
        copy_of: the argument of which that is a copy; None: the call has made it.
    """

    what: Literal["argument", "result", "own"]
    which: int
    bytes: int = 0
    packed: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = ""
    copy_of: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a call was seen to do, given which of its arguments need a gradient.

    Attributes:
        kept: for backward, in order, each storage once.
        forward, backward: FLOPs.
        run, unwind: what happens to memory.
        carries: of each result, whether a gradient passes through it.
        late: whether something of what is kept is there only when the call has computed.
        numbers: how many Python numbers autograd keeps as tensors, which no hook on saved tensors sees.
        early: if nothing is late, how much of ``run`` is over when all that is kept is there.
        lacks: what cannot be counted, where a bound is asked for.
        laid: how its first result lies in memory (``storages.by_call.laid_out``).
    """

    kept: tuple[Holds, ...]
    forward: int
    backward: int
    run: tuple[Happening, ...]
    unwind: tuple[Happening, ...]
    carries: tuple[bool, ...]
    late: bool = False
    numbers: int = 0
    early: int = 0
    lacks: Lacking = NOTHING
    laid: Shape | None = None


class Observer(Protocol):
    """Makes a call, and says what happened."""

    def facts(self, needs: tuple[bool, ...], packs: Packs = UNPACKED) -> Facts:
        """What the call does, where those of its tensors need a gradient that are said to.

        Args:
            packs: what of it is kept packed.
        """
        ...

    def casts(self) -> tuple[int, ...]:
        """Numbers of the arguments that autocast casts to its own format."""
        ...

    def given_copies(self, numbers: Sequence[int]) -> Observer:
        """One whose call is given these arguments in autocast's format."""
        ...

    def bounding(self) -> Observer:
        """One that does not refuse a call of which something cannot be counted, but says what ``lacks``."""
        ...


def bounded(op: Op) -> Op:
    """The operation as one whose costs may be bounds."""
    observer: Observer | None = op.attrs.get("observer")
    return op if observer is None else replace(op, attrs={**op.attrs, "observer": observer.bounding()})


CALLED = "called"
"""In ``Op.attrs`` of an operation of a kind with a rule of its own: the same as a call."""

Argument = tuple[Literal["read", "part", "buffer"], int | str]
"""A tensor that a call is given: what it reads (by place), a parameter (by part), or a buffer of the model."""


Shown = tuple[Literal["read", "part", "buffer", "result"], int | str] | None
"""What a result is a view of; None: of nothing."""


def _facts(c: Context) -> Facts:
    observer: Observer = c.op.attrs["observer"]
    arguments: tuple[Argument, ...] = c.op.attrs["arguments"]
    return observer.facts(tuple(_needs(c, argument) for argument in arguments), _packs(c.op, arguments))


def _packs(op: Op, arguments: Sequence[Argument]) -> Packs:
    """What of a call is packed: of what it makes, all that is kept in the way that is said of what it writes."""
    if not op.packs:
        return UNPACKED
    packed = frozenset(
        number
        for number, (kind, which) in enumerate(arguments)
        if kind == "read" and op.stores(op.reads[int(which)]).packs
    )
    least = CALLS[op.attrs["function"]].least if op.stores(op.writes).packs else 0
    return Packs(packed, least)


def _needs(c: Context, argument: Argument) -> bool:
    kind, which = argument
    if kind == "read":
        return c.needs[int(which)]
    return kind == "part" and c.trains(str(which))


def _own(c: Context, number: int) -> str:
    return f"{c.op.writes}:own {number}"


def _number(c: Context, number: int) -> str:
    return f"{c.op.writes}:number {number}"


def _result(c: Context, number: int) -> Tensor:
    return c.others[number - 1] if number else c.writes


def _keeps(c: Context) -> list[Kept]:
    return [kept for holds in _facts(c).kept if (kept := _kept(c, holds)) is not None]


def _kept(c: Context, holds: Holds) -> Kept | None:
    if holds.what == "own":
        if not holds.packed:
            return Kept(_own(c, holds.which), (holds.bytes,), "uint8", stored_as=EVERYTHING)
        copied = None if holds.copy_of is None else _given(c, holds.copy_of)
        how = c.writes if copied is None else copied
        return Kept(_own(c, holds.which), holds.shape, holds.dtype, as_made=True, stored_as=how.name)
    tensor = _result(c, holds.which) if holds.what == "result" else _given(c, holds.which)
    if tensor is None:
        return None
    if not holds.packed:
        return Kept(tensor.name, tensor.shape, tensor.dtype, stored_as=EVERYTHING)
    laid = c.op.attrs["laid"][tensor.name]
    return Kept(tensor.name, laid, tensor.dtype, as_made=True, stored_as=tensor.name)


def _given(c: Context, number: int) -> Part | None:
    """The tensor that an argument is; None for a buffer of the model, which is there anyway."""
    kind, which = c.op.attrs["arguments"][number]
    if kind == "read":
        return c.reads[int(which)]
    return c.params[str(which)] if kind == "part" else None


def _run(c: Context, m: Forward) -> None:
    for number in range(_facts(c).numbers):
        m.keep_number(_number(c, number), c.device.number)
    _happen(c, m, _facts(c).run)


def _begin(c: Context, m: Forward) -> None:
    _happen(c, m, _facts(c).run[: _facts(c).early])


def _happen(c: Context, m: Forward, happenings: Sequence[Happening]) -> None:
    there: dict[str, None] = {}
    for what, which, size, _ in happenings:
        if what == "take":
            m.take(_own(c, which), size)
            there[_own(c, which)] = None
        elif what == "make":
            made = _result(c, which)
            m.take(made.name, made.bytes)
        elif what == "pack":
            if _facts(c).kept[which].what != "argument":  # which is packed before
                m.pack(_name(c, _facts(c).kept[which]))
        elif there.pop(_own(c, which), "") is None:
            m.drop(_own(c, which))
    m.drop(*there)


def _unwind(c: Context, b: Backward) -> None:
    facts, there = _facts(c), dict[str, None]()
    arguments = c.op.attrs["arguments"]
    for what, which, size, source in facts.unwind:
        if what == "take":
            there[f"{_own(c, which)} of backward"] = None
            b.take(f"{_own(c, which)} of backward", size)
        elif what == "drop":
            if there.pop(name := f"{_own(c, which)} of backward", "") is None:
                b.drop(name)
        elif what == "give":
            kind, place = arguments[which]
            b.give(int(place)) if kind == "read" else b.give_part(str(place))
        elif what == "pass":
            kind, place = arguments[which]
            b.pass_on(int(place), source) if kind == "read" else b.view_part(str(place), source)
        elif what == "let_go":
            b.release(_name(c, facts.kept[which]))
        elif what == "gone":
            b.release_gradient(which)
        elif what == "restore":
            b.restore(_name(c, facts.kept[which]))
        elif what == "forget":
            b.forget(_name(c, facts.kept[which]))
    b.drop(*there, *(_number(c, number) for number in range(facts.numbers)))


def _name(c: Context, held: Holds) -> str:
    """The storage that is held."""
    if held.what == "own":
        return _own(c, held.which)
    tensor = _result(c, held.which) if held.what == "result" else _given(c, held.which)
    return tensor.storage if isinstance(tensor, Tensor) else ""


def _makes(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> tuple[Tensor, ...]:
    """Results have the shapes that were traced; what is a view shows what the call was given."""
    shows: tuple[Shown, ...] = op.attrs["shows"]
    made: list[Tensor] = []
    for result, shown in zip(op.attrs["results"], shows, strict=True):
        storage = result.name
        if shown is not None:
            kind, which = shown
            if kind == "read":
                storage = reads[int(which)].storage
            elif kind == "result":
                storage = made[int(which)].storage
            else:
                storage = params[str(which)].name if kind == "part" else str(which)
        made.append(replace(result, storage=storage))
    return tuple(made)


def _passes(op: Op, reads: Sequence[bool], parts: Mapping[str, bool]) -> tuple[bool, ...]:
    observer: Observer = op.attrs["observer"]
    needs = [
        reads[int(which)] if kind == "read" else kind == "part" and parts[str(which)]
        for kind, which in op.attrs["arguments"]
    ]
    return observer.facts(tuple(needs)).carries


_RULE = Rule(
    keeps=_keeps,
    forward=lambda c: _facts(c).forward,
    backward=lambda c: _facts(c).backward,
    run=_run,
    begin=_begin,
    unwind=_unwind,
    keeps_results=lambda c: _facts(c).late,
    lacks=lambda c: _facts(c).lacks,
)

CALL = Kind(
    name="call",
    summary="a call of a function of torch, by a traced model",
    makes=_makes,
    passes=_passes,
    plain=_RULE,
    packed=replace(_RULE, unpacks=True),
)
