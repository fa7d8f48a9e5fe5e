"""The ledger of one training step: bytes and FLOPs by block, operation and kind.

A prediction and a measurement answer with the same type, so that they can be subtracted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal[
    "parameter",
    "gradient",
    "optimizer",
    "input",
    "saved",
    "transient",
    "forward",
    "backward",
    "recompute",
]

HELD: tuple[Kind, ...] = ("parameter", "gradient", "optimizer", "input", "saved")
"""Kinds of memory that are added up. ``transient`` lives within one operation and counts in the peak only."""

NAMES: dict[str, str] = {
    "parameter": "parameters",
    "gradient": "gradients",
    "optimizer": "optimiser state",
    "saved": "saved activations",
    "input": "input",
    "transient": "transients",
}
"""What each kind of memory is called, wherever it is shown."""

FIGURES = {
    "forward_flops": "forward FLOPs",
    "train_flops": "training FLOPs",
    "saved_bytes": "saved activations",
    "peak_bytes": "the peak",
}
"""What figures are called of which something may be unknown."""

COMPUTE: tuple[Kind, ...] = ("forward", "backward", "recompute")
"""Kinds of row that carry FLOPs instead of bytes; ``recompute`` is forward work done again in backward."""

WHOLE = "step"
"""The operation of FLOPs that are known of a whole block, or of the whole step: a measurement tells no operation's
backward apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: ``block`` is the 0-based block index, or None outside of the blocks."""

    block: int | None
    operation: str
    kind: Kind
    bytes: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a step.

    Attributes:
        bytes: what is alive then.
        phase: ``forward``, ``backward`` or ``optimizer`` (its step); ``standing`` if nothing is added to
            what is there before.
        block: 0-based, or None outside of the blocks.
        operation: the operation at work.
        alive: bytes by kind; ``transient`` is what neither stands nor is kept for backward.
    """

    bytes: int
    phase: str
    block: int | None
    operation: str
    alive: Mapping[str, int]


def said_bound(figure: str, at_least: Collection[str]) -> str:
    """What stands before a figure, where some are bounds. (Of what needs at least so much, at most so many images
    fit.)"""
    if figure == "largest_batch":
        return "≤ " if "counted_bytes" in at_least else ""
    return "≥ " if figure in at_least else ""


@dataclass(frozen=True)
class Unknown:
    """Operations of which something cannot be counted, so that figures of a prediction are bounds.

    Attributes:
        operation: what is called.
        where: path of the first module that calls it.
        times: calls in a step.
        bytes: of what the largest of them is given and makes.
        figures: of the ledger, those that are *at least* what is said.
        why: what cannot be counted.
    """

    operation: str
    where: str
    times: int
    bytes: int
    figures: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        calls = (
            f"{self.times:,} call{'' if self.times == 1 else 's'}, the first in {self.where or 'the model'}"
        )
        figures = ", ".join(FIGURES[figure] for figure in self.figures)
        return (
            f"{self.operation} ({calls}; up to {self.bytes:,} bytes given and made): {self.why}; a bound from below: "
            f"{figures}"
        )


@dataclass(frozen=True)
class Ledger:
    """The rows of one step, and the peak that no sum of rows can tell.

    Attributes:
        rows: entries; several may share block, operation and kind.
        peak_bytes: the most memory alive at any moment of the step, in bytes.
        peak_is: where ``peak_bytes`` is from: ``predicted``, ``live tensors`` (measured on the CPU) or
            ``allocator`` (measured on CUDA).
        peak: when the predicted peak is, and what is alive then.
        scratch_bytes: measured on the CPU, how much higher the allocator's own peak was: what kernels take
            and give back within one call.
        reserved_bytes: on CUDA, what the allocator has taken from the device at most since the process began:
            predicted, or measured.
        context_bytes: on CUDA, what the driver and its libraries hold beside it: measured, or in a prediction the
            estimate of ``devices.gpus.CONTEXT``.
        unknown: operations of which something is not counted, where a prediction may be a bound (``Config.unknown``).
    """

    rows: tuple[Row, ...]
    peak_bytes: int = 0
    peak_is: str = "predicted"
    peak: Peak | None = None
    scratch_bytes: int = 0
    reserved_bytes: int = 0
    context_bytes: int = 0
    unknown: tuple[Unknown, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def bytes_of(self, *kinds: Kind) -> int:
        """Bytes of all rows of these kinds."""
        return sum(row.bytes for row in self.rows if row.kind in kinds)

    def flops_of(self, *kinds: Kind) -> int:
        """FLOPs of all rows of these kinds, 2 per multiply-add."""
        return sum(row.flops for row in self.rows if row.kind in kinds)

    @property
    def at_least(self) -> frozenset[str]:
        """The figures that are true *at least*, by name: something that they count is ``unknown``."""
        found = {figure for each in self.unknown for figure in each.figures}
        return frozenset(found | {more for figure in found for more in _FOLLOWING.get(figure, ())})

    @property
    def device_bytes(self) -> int:
        """All that a process takes from a GPU, as ``nvidia-smi`` shows it; 0 on other devices."""
        return self.reserved_bytes and self.reserved_bytes + self.context_bytes

    @property
    def saved_bytes(self) -> int:
        """Unique storages held for backward at the end of forward and loss."""
        return self.bytes_of("saved")

    @property
    def parameter_bytes(self) -> int:
        """All parameters, trained or not."""
        return self.bytes_of("parameter")

    @property
    def gradient_bytes(self) -> int:
        """Gradients of the trained parameters."""
        return self.bytes_of("gradient")

    @property
    def optimizer_bytes(self) -> int:
        """State that the optimiser keeps from step to step."""
        return self.bytes_of("optimizer")

    @property
    def input_bytes(self) -> int:
        """The batch of images and labels."""
        return self.bytes_of("input")

    @property
    def held_bytes(self) -> int:
        """The sum of parameters, gradients, optimiser state, input and saved tensors. They are not all alive at once:
        a budget counts ``peak_bytes``, if nothing else is asked for."""
        return self.bytes_of(*HELD)

    @property
    def forward_flops(self) -> int:
        """FLOPs of the forward pass and the loss."""
        return self.flops_of("forward")

    @property
    def train_flops(self) -> int:
        """FLOPs of forward and backward together, and of what is computed again."""
        return self.flops_of(*COMPUTE)

    def by_block(self) -> dict[str, dict[str, int]]:
        """``{"3": {"saved": bytes, …, "train_flops": FLOPs}}``; ``"rest"`` is what no block owns."""
        blocks: dict[str, dict[str, int]] = {}
        for row in sorted(self.rows, key=lambda row: (row.block is None, row.block or 0)):
            entry = blocks.setdefault("rest" if row.block is None else str(row.block), defaultdict(int))
            if row.kind in COMPUTE:
                entry["train_flops"] += row.flops
            else:
                entry[row.kind] += row.bytes
        return {block: dict(entry) for block, entry in blocks.items()}

    def by_kind(self) -> dict[str, int]:
        """Bytes by kind of memory, FLOPs by kind of computation."""
        kinds: dict[str, int] = defaultdict(int)
        for row in self.rows:
            kinds[row.kind] += row.flops if row.kind in COMPUTE else row.bytes
        return dict(kinds)

    def by_operation(self) -> dict[tuple[int | None, str, Kind], tuple[int, int]]:
        """(bytes, FLOPs) by (block, operation, kind)."""
        entries: dict[tuple[int | None, str, Kind], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for row in self.rows:
            key = (row.block, row.operation, row.kind)
            entries[key] = (entries[key][0] + row.bytes, entries[key][1] + row.flops)
        return dict(entries)

    def __sub__(self, other: Ledger) -> Ledger:
        """Row by row difference: what this ledger holds more than ``other`` (rows that cancel are gone).

        Where one of them knows FLOPs of the whole step only, as a measurement does, the FLOPs of both are compared so.
        """
        coarse = any(row.operation == WHOLE for row in (*self.rows, *other.rows))
        mine, theirs = (
            (each._with_flops_as_one() if coarse else each).by_operation() for each in (self, other)
        )
        rows = []
        for key in dict.fromkeys([*mine, *theirs]):
            held, computed = (
                a - b for a, b in zip(mine.get(key, (0, 0)), theirs.get(key, (0, 0)), strict=True)
            )
            if held or computed:
                rows.append(Row(*key, bytes=held, flops=computed))
        return Ledger(tuple(rows), peak_bytes=self.peak_bytes - other.peak_bytes, peak_is="difference")

    def _with_flops_as_one(self) -> Ledger:
        """The same with FLOPs of the whole step only, as measured: what is computed again is a part of backward."""
        bytes_ = (row for row in self.rows if row.kind not in COMPUTE)
        forward = Row(None, WHOLE, "forward", flops=self.forward_flops)
        backward = Row(None, WHOLE, "backward", flops=self.train_flops - self.forward_flops)
        return Ledger((*bytes_, forward, backward))

    def summary(self) -> dict[str, Any]:
        """The totals under their public names, as they stand in a record."""
        return {
            "saved_bytes": self.saved_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_is": self.peak_is,
            "parameter_bytes": self.parameter_bytes,
            "gradient_bytes": self.gradient_bytes,
            "optimizer_bytes": self.optimizer_bytes,
            "input_bytes": self.input_bytes,
            "held_bytes": self.held_bytes,
            "forward_flops": self.forward_flops,
            "train_flops": self.train_flops,
            "by_block": self.by_block(),
            "by_kind": self.by_kind(),
            **({"peak": asdict(self.peak)} if self.peak else {}),
            **({"at_least": sorted(self.at_least)} if self.unknown else {}),
            **({"unknown": [asdict(each) for each in self.unknown]} if self.unknown else {}),
            **{name: getattr(self, name) for name in (*_BESIDE, "device_bytes") if getattr(self, name)},
        }

    def to_frame(self) -> pd.DataFrame:
        """The rows as a frame with the columns block, operation, kind, bytes, flops."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(Row.__slots__))


_FOLLOWING = {
    "forward_flops": ("train_flops",),
    "saved_bytes": ("held_bytes",),
    "peak_bytes": ("reserved_bytes", "device_bytes"),
}
"""Figures that another is a part of."""

_BESIDE = ("scratch_bytes", "reserved_bytes", "context_bytes")


def ledger(
    rows: Iterable[Row],
    peak_bytes: int = 0,
    peak_is: str = "predicted",
    peak: Peak | None = None,
    beside: Mapping[str, int] | None = None,
    unknown: tuple[Unknown, ...] = (),
) -> Ledger:
    """A ledger of the rows that say something: those with no bytes and no FLOPs are left out.

    Args:
        beside: the ledger's fields that are measured beside the peak.
        unknown: see ``Ledger``.
    """
    said = tuple(row for row in rows if row.bytes or row.flops)
    return Ledger(said, peak_bytes, peak_is, peak, **(beside or {}), unknown=unknown)


def in_phases(ledgers: Sequence[Ledger], shares: Sequence[float]) -> Ledger:
    """The ledger of a training that goes through phases: the bytes of the one whose steps hold most, and the mean of
    their FLOPs, of whole blocks only.

    Args:
        shares: of the steps, one a ledger; they add up to 1.
    """
    fullest = max(ledgers, key=lambda each: each.peak_bytes)
    rows = [row for row in fullest.rows if row.kind not in COMPUTE]
    mean: dict[tuple[int | None, Kind], float] = defaultdict(float)
    for share, each in zip(shares, ledgers, strict=True):
        for row in each.rows:
            if row.kind in COMPUTE:
                mean[row.block, "forward" if row.kind == "forward" else "backward"] += share * row.flops
    rows += [Row(block, WHOLE, kind, flops=round(flops)) for (block, kind), flops in mean.items()]
    reserved = max(each.reserved_bytes for each in ledgers)
    unknown = tuple(dict.fromkeys(one for each in ledgers for one in each.unknown))
    return replace(fullest, rows=tuple(rows), reserved_bytes=reserved, unknown=unknown)
