"""Where steps choose what trains: the choice of which a step holds most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice, product

from bsr_explorer.cost.step import Recorded, saved_rows
from bsr_explorer.methods.steps import Shape, Steps
from bsr_explorer.tape import Tape


def fullest(steps: Steps, tape: Callable[[Shape], Tape], peak: Callable[[Tape], int], alike: bool) -> Shape:
    """The shape of the step that holds most.

    It is one of a few: the parts train of which most is saved, or just the highest, or the lowest; with the lowest of
    all or without, for a gradient that goes further down lets those above save more. Where some blocks are recomputed,
    or lie elsewhere, which choice is fullest is not so easily known: then all train, which no choice exceeds.

    Args:
        tape: of a step of a shape.
        peak: bytes that a step holds at most.
        alike: whether blocks do not differ so.
    """
    everything = {part for choice in steps.choices for part in choice.among}
    if not steps.choices or not alike:
        return steps.training(everything)

    @cache
    def holds(train: frozenset[str]) -> int:
        return peak(tape(steps.training(train)))

    saved = _saved_by_part(steps, tape)
    best = max(dict.fromkeys(_candidates(steps, saved)), key=holds)
    # Blocks have different numbers of tokens, or parts are of different kinds.
    if any(len({saved[part] for part in choice.among}) > 1 for choice in steps.choices):
        for _ in range(ROUNDS):
            before, best = best, max((best, *islice(_exchanged(steps, best), EXCHANGES)), key=holds)
            if best == before:
                break
    return steps.training(best)


ROUNDS = 3
"""How often parts are exchanged, at most."""

EXCHANGES = 64
"""Choices that are looked at in a round, at most."""


def _exchanged(steps: Steps, train: frozenset[str]) -> Iterator[frozenset[str]]:
    """Choices that differ in one part."""
    for choice in steps.choices:
        mine = [part for part in choice.among if part in train]
        for gone, new in product(mine, (part for part in choice.among if part not in train)):
            yield train - {gone} | {new}


def _candidates(steps: Steps, saved: Mapping[str, int]) -> Iterator[frozenset[str]]:
    """Parts that train together."""
    for by_saved, downwards, lowest in product((True, False), repeat=3):
        train: list[str] = []
        for choice in steps.choices:
            order = list(choice.among[::-1] if downwards else choice.among)
            order.sort(key=lambda part: -saved[part] if by_saved else not saved[part])
            first = choice.among[:1] if lowest else ()
            train += [*first, *(part for part in order if part not in first)][: choice.count]
        yield frozenset(train)


def _saved_by_part(steps: Steps, tape: Callable[[Shape], Tape]) -> dict[str, int]:
    """By how much more is saved where a part trains: of a step in which all do and one in which none does, the
    difference in what its operations save."""
    everything = {part for choice in steps.choices for part in choice.among}
    more: Counter[str] = Counter()
    for parts, sign in ((everything, 1), ((), -1)):
        for row in saved_rows(Recorded.of(tape(steps.training(parts)))):
            more[row.operation] += sign * row.bytes

    def saved(part: str) -> int:
        alone = steps.shape((part,))
        return sum(size for name, size in more.items() if alone.rests_at(name))

    return {part: saved(part) for part in everything}
