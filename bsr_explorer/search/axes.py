"""What a study may vary: families of methods, each an expression whose open arguments take all values of their axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods import Bsr, method_calls
from bsr_explorer.methods.axes import MOST_SUBSETS, Axis, Numbers, Params, Schedules, Subsets
from bsr_explorer.methods.base import Method
from bsr_explorer.models.base import Geometry
from bsr_explorer.store.space import SpaceSpec

UNPREFIXED = Bsr.name
"""The method whose parameters have no prefix: databases of before had these alone."""


@dataclass(frozen=True)
class Part:
    """One method of a family.

    Attributes:
        given: arguments that do not vary.
        axes: those that do.
    """

    method: type[Method]
    given: Mapping[str, Any]
    axes: tuple[Axis, ...]

    def make(self, values: Sequence[Any]) -> Method:
        """The method with these values of its axes.

        Raises:
            UserError: it refuses them.
        """
        varied = {axis.argument: value for axis, value in zip(self.axes, values, strict=True)}
        return self.method(**{**self.given, **varied})

    def named(self, params: Params) -> Params:
        """Parameters of its axes, by the names that they have beside those of other methods."""
        return {named(self.method, name): value for name, value in params.items()}

    def own(self, params: Mapping[str, Any], axis: Axis) -> Params:
        """Of all parameters, an axis's, by its own names."""
        return {name: params[named(self.method, name)] for name in axis.parameters}


@dataclass(frozen=True)
class Family:
    """Methods of one expression.

    Attributes:
        text: the expression; an argument that it does not give is an axis, if the method has one for it.
    """

    text: str
    parts: tuple[Part, ...]

    @property
    def axes(self) -> list[tuple[Part, Axis]]:
        """Every axis with its part, in order."""
        return [(part, axis) for part in self.parts for axis in part.axes]

    def __len__(self) -> int:
        size = 1
        for _, axis in self.axes:
            size *= len(axis)
        return size

    def values(self) -> Iterator[tuple[Any, ...]]:
        """Every choice of a value an axis."""
        return itertools.product(*(tuple(axis.values()) for _, axis in self.axes))

    def make(self, values: Sequence[Any]) -> Method:
        """The method with these values, one an axis.

        Raises:
            UserError: a part refuses them.
        """
        left, made = iter(values), []
        for part in self.parts:
            made.append(part.make([next(left) for _ in part.axes]))
        return reduce(add, made)

    def said(self, values: Sequence[Any]) -> Params:
        """Parameters of these values, one an axis."""
        params: Params = {}
        for (part, axis), value in zip(self.axes, values, strict=True):
            params |= part.named(axis.said(value))
        return params

    def chosen(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """A value an axis, of all parameters of a space."""
        return tuple(axis.value(part.own(params, axis)) for part, axis in self.axes)


def named(method: type[Method], parameter: str) -> str:
    """A parameter's name beside those of other methods."""
    return parameter if method.name == UNPREFIXED else f"{method.name}.{parameter}"


def default_space(geometry: Geometry) -> SpaceSpec:
    """Subsets of blocks, all of them for up to 16 blocks; drops at each quarter of the depth; the known
    configurations first."""
    depth = geometry.depth
    stretched = Bsr.stretched(depth)
    paper = [str(stretched)] if geometry.class_token else []
    last = [f"last(k={k})" for k in (1, 3, depth // 2) if 1 <= k < depth]
    start = ["linear", *paper, *last, str(Bsr(stretched.blocks, {})), "checkpoint", "full"]
    blocks, keep, _ = Bsr.axes(geometry)
    assert isinstance(blocks, Subsets)
    assert isinstance(keep, Schedules)
    return SpaceSpec(tuple(dict.fromkeys(start)), blocks.most, keep.at)


def families(spec: SpaceSpec, geometry: Geometry) -> list[Family]:
    """The families of a study, in a model of this geometry.

    Raises:
        UserError: an axis that no family has, values that it cannot take, or one family twice.
    """
    texts = ["".join(text.split()) for text in spec.families]
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise UserError(f"[space] families: {twice[0]!r} stands twice; name each family once")
    calls = {text: method_calls(text) for text in texts}
    methods = {method.name: method for call in calls.values() for method, _ in call}
    asked = _asked(spec, methods)
    for name, wanted in spec.axes.items():
        if name not in methods:
            raise unknown("[space.axes] (a method of the families)", name, methods)
        method = methods[name]
        allowed = [axis.argument for axis in (*method.axes(geometry), *method.axes_if_named(geometry))]
        for argument in wanted:
            if argument not in allowed:
                raise unknown(f"[space.axes] {name}", argument, allowed)
    return [
        Family(text, tuple(_part(method, given, asked, geometry) for method, given in call))
        for text, call in calls.items()
    ]


def check_bsr(spec: SpaceSpec, geometry: Geometry) -> None:
    """Refuse values of the keys of ``bsr`` that a model of this geometry does not have.

    Raises:
        UserError: with what is allowed.
    """
    depth, drop_at, most = geometry.depth, spec.drop_at or (), spec.max_blocks or 0
    beyond = [block for block in drop_at if not 0 <= block < depth]
    if beyond:
        raise UserError(f"[space] drop_at: block {beyond[0]} is out of range; use 0 to {depth - 1} (0-based)")
    given = [g for text in spec.families for method, g in method_calls(text) if method is Bsr]
    otherwise = given and all(g.get("criterion", Bsr.criterion) != Bsr.criterion for g in given)
    if drop_at and not (geometry.class_token or otherwise) and min(spec.keep) < 1:
        raise UserError(
            f"[space] drop_at: {geometry.name} has no class token to drop tokens by; leave it out, or name "
            "a family such as \"bsr(criterion='attention')\""
        )
    if not 0 <= most <= depth:
        raise UserError(f"[space] max_blocks: {most} must be 0 to {depth}, the blocks of the model")
    subsets = len(Subsets("blocks", depth, most))
    if subsets > MOST_SUBSETS:
        raise UserError(
            f"[space] max_blocks: {depth} blocks have {subsets:,} subsets of at most {most}, more than the "
            f"{MOST_SUBSETS:,} that a search lays out; lower it"
        )


def _asked(spec: SpaceSpec, methods: Mapping[str, type[Method]]) -> dict[str, Mapping[str, Any]]:
    """Restrictions of axes by method and argument. Those of ``bsr`` have keys of their own."""
    if UNPREFIXED in spec.axes:
        raise UserError(
            f"[space.axes] {UNPREFIXED}: its axes are the keys max_blocks, drop_at, keep and fuse of [space]; give "
            "them there"
        )
    keep: dict[str, Any] = {"rates": spec.keep}
    own: dict[str, Any] = {"keep": keep, "fuse": spec.fuse}
    if spec.drop_at is not None:
        keep["at"] = spec.drop_at
    if spec.max_blocks is not None:
        own["blocks"] = spec.max_blocks
    return {**spec.axes, UNPREFIXED: own}


def _part(
    method: type[Method],
    given: Mapping[str, Any],
    asked: Mapping[str, Mapping[str, Any]],
    geometry: Geometry,
) -> Part:
    defaults = method.defaults_beside(given, geometry.depth, geometry.class_token)
    wanted = asked.get(method.name, {})
    named = [axis for axis in method.axes_if_named(geometry) if axis.argument in wanted]
    axes = [axis for axis in (*method.axes(geometry), *named) if axis.argument not in given]
    axes = [
        axis.only(wanted[axis.argument], f"[space.axes] {method.name}.{axis.argument}")
        if axis.argument in wanted
        else axis
        for axis in axes
    ]
    return Part(method, {**defaults, **given}, tuple(axes))


def orders(families: Sequence[Family], stage: int) -> dict[tuple[str, str], Numbers]:
    """The ordered axes with more than one value of methods from a ``Method.stage`` on, by method and argument."""
    return {
        (part.method.name, axis.argument): axis
        for family in families
        for part, axis in family.axes
        if part.method.stage >= stage and isinstance(axis, Numbers) and len(axis) > 1
    }
