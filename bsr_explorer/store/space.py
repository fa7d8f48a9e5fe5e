"""The ``[space]`` of a study file: what a search may choose among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any

from bsr_explorer.errors import UserError
from bsr_explorer.methods import method_calls, parse_method

FAMILIES = ("bsr",)
"""What a study file searches that names no families."""

SEARCHED = ("bsr", "bsr+mesa(bits=8)")
"""What a new study of the command line searches if none are named, and writes into its file."""


@dataclass(frozen=True)
class SpaceSpec:
    """The configurations that a search may choose among.

    Every configuration of each of the ``families``, and the methods of ``start``, which are tried first. Of ``bsr``
    those are every subset of at most ``max_blocks`` blocks × every choice of a keep rate for each block of ``drop_at``
    × fused or not.

    Attributes:
        start: method expressions, tried in this order where they fit.
        max_blocks: the most blocks that train; None: as many as can be laid out.
        drop_at: 0-based blocks where tokens may be dropped; None: at each quarter of the depth.
        keep: keep rates to choose from; 1.0 is no drop.
        batch_sizes: images a step to choose from; none: the configuration's own.
        lr: peak learning rates to choose from; none: the configuration's own, or the recipe's.
        families: method expressions; an argument that one does not name takes every value of its axis.
        axes: other values of axes, by method and argument.
    """

    start: tuple[str, ...] = ()
    max_blocks: int | None = None
    drop_at: tuple[int, ...] | None = None
    keep: tuple[float, ...] = (1.0, 0.7, 0.5)
    fuse: tuple[bool, ...] = (True, False)
    batch_sizes: tuple[int, ...] = ()
    lr: tuple[float, ...] = ()
    families: tuple[str, ...] = FAMILIES
    axes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
        for expression in self.start:
            parse_method(expression)
        for family in self.families:
            method_calls(family)
        if not self.families:
            raise UserError('[space] families: needs at least one, such as ["bsr"]')
        for rate in self.keep:
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
                raise UserError(f"[space] keep: {rate!r} is no keep rate; each must be above 0 and at most 1")
        for size in self.batch_sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise UserError(
                    f"--batch-size: {size!r} is no number of images; each must be a whole number of at least 1"
                )
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise UserError(f"--batch-size: {self.batch_sizes} names a size twice; name each once")
        for rate in self.lr:
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < inf:
                raise UserError(f"[space] lr: {rate!r} is no learning rate; each must be positive and finite")
        if len(set(self.lr)) < len(self.lr):
            raise UserError(f"[space] lr: {self.lr} names a rate twice; name each once")
        if not self.keep or not self.fuse:
            raise UserError("[space] keep and fuse need at least one value each, such as keep = [1.0]")

    def to_toml(self) -> dict[str, Any]:
        """The keys of the file's table; what a space of ``bsr`` alone does not need is left out."""
        said = asdict(self)
        if self.families == FAMILIES:
            del said["families"]
        if not self.axes:
            del said["axes"]
        return said
