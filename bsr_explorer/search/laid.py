"""Families whose costs are sums over a table of blocks: every configuration at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bsr_explorer.config import Config
from bsr_explorer.cost.entries import Runs, Schedule, schedule
from bsr_explorer.cost.grid import Grid, grid
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Blocks, Bsr, Drop, Method
from bsr_explorer.methods.axes import Params, Schedules
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.models.base import Geometry
from bsr_explorer.models.vit.geometry import Geometry as PlainGeometry
from bsr_explorer.prediction import geometry_of
from bsr_explorer.search.axes import Family, families
from bsr_explorer.search.features import Floats
from bsr_explorer.search.members import Ways, made_by
from bsr_explorer.store.space import FAMILIES, SEARCHED, SpaceSpec

OWN = ((Bsr,), (Blocks,), (Blocks, Drop))
"""Methods that are the grid's subsets and schedules, alone or together."""


def adds_up(family: Family, geometry: Geometry) -> bool:
    """Whether costs are sums over blocks: those of a plain vision transformer under ``bsr`` as its authors have it (or
    ``blocks``, with or without ``drop``) and under what changes each block by itself."""
    own, others = _divided(family)
    plain = all(
        part.given.get(flag, True) for part in own.parts for flag in ("head", "norm", "faithful", "inference")
    )
    plain &= all("criterion" not in part.given for part in own.parts)
    plain &= all(axis.argument not in ("criterion", "inference") for _, axis in own.axes)
    known = {part.method for part in own.parts} in [set(methods) for methods in OWN]
    if not (plain and known and isinstance(geometry, PlainGeometry)):
        return False
    return all(part.by_block for _, method in made_by(others) for part in parts_of(method))


ONE_BY_ONE = ("last", "last+checkpoint")
"""What is searched in a model whose costs do not add up, where all subsets of its blocks are too many."""

DROPPING = "last+evit"
"""And that, if it can drop tokens by a class token."""

FEW = 8
"""Blocks whose subsets can all be predicted one by one."""


def searched(geometry: Geometry, counts: str) -> tuple[str, ...]:
    """The families that are searched where none are named: of ``SEARCHED`` those whose costs add up in a model of this
    geometry. Where none do, ``bsr``, or ``ONE_BY_ONE`` (and ``DROPPING``) if there are many blocks. Published
    accountings have a rule for ``bsr`` alone.

    Args:
        counts: the accounting of the budget.
    """
    if counts == "published":
        return FAMILIES
    spec = SpaceSpec(families=SEARCHED)
    laid = [family.text for family in families(spec, geometry) if adds_up(family, geometry)]
    found = tuple(text for text in SEARCHED if "".join(text.split()) in laid)
    one_by_one = (*ONE_BY_ONE, DROPPING) if geometry.class_token else ONE_BY_ONE
    return found or (FAMILIES if geometry.depth <= FEW else one_by_one)


def _divided(family: Family) -> tuple[Family, Family]:
    """What the grid is of, and what else there is in a family."""
    is_own = [part.method in (Bsr, Blocks, Drop) for part in family.parts]
    own, others = (
        tuple(part for part, mine in zip(family.parts, is_own, strict=True) if mine is wanted)
        for wanted in (True, False)
    )
    return Family(family.text, own), Family(family.text, others)


class Laid:
    """Subsets of trained blocks × token drops × how blocks are stored and run: sums over a table of blocks.

    Members are numbered by what is added to ``bsr``, then by schedule, then by subset.

    Attributes:
        grids: the costs, one for each of what is added.
    """

    def __init__(self, family: Family, ways: Ways) -> None:
        self.family, self.depth = family, ways.depth
        self._own, self._others = _divided(family)
        self._added = self._found(ways)
        self.schedules = list(
            dict.fromkeys(
                schedule(keep, fuse) for keep in self._choices("keep") for fuse in self._choices("fuse")
            )
        )
        self.masks = self._subsets(ways)
        runs = runs_of(ways.config)
        geometry = geometry_of(ways.config)
        self.grids: list[Grid] = []
        for _, method in self._added.values():
            rewrites = () if method is None else tuple(part.rewrite_blocks for part in parts_of(method))
            how = replace(runs, rewrites=rewrites)
            self.grids.append(grid(geometry, self.masks, self.schedules, ways.batch_sizes, how))
        rows = len(ways.batch_sizes)
        self.bytes = np.concatenate([g.bytes(ways.counts).reshape(rows, -1) for g in self.grids], axis=1)
        self.train_flops = np.concatenate([g.train_flops.reshape(rows, -1) for g in self.grids], axis=1)
        self.trained = np.tile(self.masks.sum(axis=1), len(self._added) * len(self.schedules))

    def _found(self, ways: Ways) -> dict[str, tuple[Params, Method | None]]:
        """What is added to ``bsr``, by its canonical expression, with its parameters."""
        found: dict[str, tuple[Params, Method | None]] = {}
        for values, method in made_by(self._others):
            canonical = method.canonical(ways.depth)
            found.setdefault(str(canonical), (self._others.said(values), canonical))
        return found or {"": ({}, None)}

    def _choices(self, argument: str) -> list[Any]:
        """The values of an argument: those of its axis, the one that is given, or that of no drop at all."""
        for part in self._own.parts:
            for axis in part.axes:
                if axis.argument == argument:
                    return list(axis.values())
            if argument in part.given:
                return [part.given[argument]]
        return [{"keep": {}, "fuse": False}[argument]]

    def _subsets(self, ways: Ways) -> NDArray[np.bool_]:
        """(subsets, depth), smallest first; without the empty one, where what is added has nothing to do then."""
        subsets = self._choices("blocks")
        if () in subsets and not all(_runs(Bsr((), {}) + m, ways) for _, m in self._added.values() if m):
            subsets.remove(())
        masks = np.zeros((len(subsets), self.depth), dtype=bool)
        for row, subset in enumerate(subsets):
            masks[row, list(subset)] = True
        return masks

    @property
    def added_grids(self) -> list[tuple[str, Grid]]:
        """The costs, each with what is added, as an expression."""
        return list(zip(self._added, self.grids, strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the members: what is added, schedules, subsets."""
        return len(self._added), len(self.schedules), len(self.masks)

    def method(self, member: int) -> Method:
        """See ``Members``."""
        added, drops, mask = (int(i) for i in np.unravel_index(member, self.shape))
        keep, fuse = self.schedules[drops]
        return self._with(Bsr(self.grids[0].blocks(mask), dict(keep), fuse), added)

    def _with(self, bsr: Bsr, added: int) -> Method:
        _, method = list(self._added.values())[added]
        return bsr if method is None else bsr + method

    def kinds(self) -> list[Method]:
        """See ``Members``: of each of what is added, and each schedule, the method in which no block trains."""
        added, drops, _ = self.shape
        return [
            self._with(Bsr((), dict(self.schedules[row][0]), self.schedules[row][1]), each)
            for each in range(added)
            for row in range(drops)
        ]

    def rows(self, of_kinds: Floats, chosen: NDArray[np.intp]) -> Floats:
        """See ``Members``."""
        rows = of_kinds[chosen // len(self.masks)]
        rows[:, : self.depth] = self.masks[chosen % len(self.masks)]
        return rows

    def find(self, method: Method) -> int | None:
        """See ``Members``."""
        own = [part for part in parts_of(method) if isinstance(part, Bsr)]
        rest = "+".join(str(part) for part in parts_of(method) if not isinstance(part, Bsr))
        if len(own) != 1 or rest not in self._added:
            return None
        (bsr,) = own
        drops = schedule(bsr.keep, bsr.fuse)
        row = self._rows.get(np.isin(np.arange(self.depth), bsr.blocks).tobytes())
        authors = bsr.head and bsr.norm and bsr.faithful and bsr.criterion == Bsr.criterion
        if not authors or row is None or drops not in self._drops:
            return None
        return self._member(list(self._added).index(rest), self._drops[drops], row)

    def _member(self, added: int, drops: int, row: int) -> int:
        return int(np.ravel_multi_index((added, drops, row), self.shape))

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        return {mask.tobytes(): row for row, mask in enumerate(self.masks)}

    @cached_property
    def _drops(self) -> dict[Schedule, int]:
        return {each: row for row, each in enumerate(self.schedules)}

    def said(self, member: int) -> Params:
        """See ``Members``."""
        added, drops, mask = (int(i) for i in np.unravel_index(member, self.shape))
        keep, fuse = self.schedules[drops]
        values = {"blocks": self.grids[0].blocks(mask), "keep": dict(keep), "fuse": fuse}
        params, _ = list(self._added.values())[added]
        for part, axis in self._own.axes:
            params = {**params, **part.named(axis.said(values[axis.argument]))}
        return params

    def nearest(self, params: Params) -> int:
        """See ``Members``: with the topmost block, where none trains; with the first that may be added, where it
        cannot be."""
        chosen = {axis.argument: axis.value(part.own(params, axis)) for part, axis in self._own.axes}
        values = {name: chosen.get(name, self._choices(name)[0]) for name in ("blocks", "keep", "fuse")}
        drops, blocks = schedule(values["keep"], values["fuse"]), values["blocks"] or (self.depth - 1,)
        row = self._rows.get(np.isin(np.arange(self.depth), blocks).tobytes(), 0)
        return self._member(self._added_by(params), self._drops.get(drops, 0), row)

    def _added_by(self, params: Params) -> int:
        if not self._others.parts:
            return 0
        try:
            added = str(self._others.make(self._others.chosen(params)).canonical(self.depth))
        except UserError:
            return 0
        names = list(self._added)
        return names.index(added) if added in names else 0

    def around(self, member: int) -> Iterator[int]:
        """See ``Members``: one block trains, does not, or its neighbour does instead; one keep rate; what is added."""
        added, drops, row = (int(i) for i in np.unravel_index(member, self.shape))
        mask, blocks = self.masks[row], np.arange(self.depth)
        others = [mask ^ (blocks == block) for block in range(self.depth)]
        for block in np.flatnonzero(mask):
            for other in (block - 1, block + 1):
                if 0 <= other < self.depth and not mask[other]:
                    others.append(mask ^ np.isin(blocks, (block, other)))
        yield from (
            self._member(added, drops, self._rows[m.tobytes()]) for m in others if m.tobytes() in self._rows
        )
        keep, fuse = self.schedules[drops]
        schedules = [axis for _, axis in self._own.axes if isinstance(axis, Schedules)]
        for place, rate in ((place, rate) for axis in schedules for place in axis.at for rate in axis.rates):
            other_drops = self._drops.get(schedule({**dict(keep), place: rate}, fuse))
            if other_drops is not None:
                yield self._member(added, other_drops, row)
        yield from (self._member(other, drops, row) for other in range(len(self._added)))


def _runs(method: Method, ways: Ways) -> bool:
    """Whether a method can be what it is in the model."""
    try:
        ways.costs(method, ways.batch_sizes[0])
    except UserError:
        return False
    return True


def runs_of(config: Config) -> Runs:
    """How the configurations of a grid are run, as one of them says."""
    return Runs(config.attention, config.precision, config.setup)
