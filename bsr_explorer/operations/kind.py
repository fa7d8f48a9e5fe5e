"""What a kind of operation is: all that is known of it, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bsr_explorer.devices import Device
from bsr_explorer.operations.op import Op, Part, Tensor
from bsr_explorer.operations.rule import Rule
from bsr_explorer.storages.storage import Shape

# --- number formats -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Casting:
    """What autocast does with an operation.

    Attributes:
        to: number format that its operands are cast to; None: they stay, and it takes the widest of them.
        attrs: attributes that it gets: ``dtype`` of its result, where that is another, and formats within it.
    """

    to: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


Formats = tuple[str, ...]
"""Number formats of what an operation reads."""


def widest(formats: Formats, narrow: str, device: Device) -> Casting:
    """Operands stay as they are."""
    return Casting()


def in_16_bits(formats: Formats, narrow: str, device: Device) -> Casting:
    """Products: in autocast's format."""
    return Casting(narrow)


def in_32_bits(formats: Formats, narrow: str, device: Device) -> Casting:
    """Losses, and what torch's table lists beside them."""
    return Casting("fp32")


def alike(op: Op, formats: Formats, device: Device) -> Mapping[str, Any]:
    """The same on every device."""
    return {}


# --- the kind -------------------------------------------------------------------------------------------

ShapeRule = Callable[[Op, Sequence[Tensor], Mapping[str, Part]], Shape]


def same_shape(op: Op, reads: Sequence[Tensor], params: Mapping[str, Part]) -> Shape:
    """That of what is read first."""
    return reads[0].shape


def unless_detached(op: Op) -> bool:
    """A graph, unless the operation is ``detached``."""
    return not op.attrs.get("detached")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of operation.

    Attributes:
        name: ``Op.kind`` of its operations.
        summary: what it computes, in a line.
        shape: shape of what it writes, given what it reads and its parameters (or what was made of them).
        view: whether what it writes is a view of what it reads first.
        plain: what it keeps, computes and allocates as torch runs it.
        packed: the same where it runs as a function that packs what it keeps; None: there is no such function.
        autocast: what autocast does with it, given the formats of what it reads, autocast's own, and the device.
        on_device: attributes that a device adds (a kernel, a format within), after autocast.
        carries: whether a gradient may pass through it; if not, it runs without a graph.
        as_first: whether what it writes has the number format of what it reads first; if not, that of the widest.
        stays: the place among ``reads`` of the tensor that the caller holds in a local variable of its own until it
            returns; None: nothing stays.
        inserted: whether ``lower`` puts it in, so that it follows from the precision and from what trains.
        casts_itself: whether a function of this package runs it, which casts parameters for itself (autocast would hold
            its copies of what trains until it is left).
        is_loss: whether backward begins at it; the model does not call what has its name.
        makes: all tensors that it makes, where they are several, or where it depends on what is called of what they
            are views; None: one, of which the other fields speak.
        passes: of each of them, whether a gradient passes through it, given which of what it reads and which of its
            parts need one; None: as ``carries`` says.
    """

    name: str
    summary: str
    shape: ShapeRule = same_shape
    view: bool = False
    plain: Rule = field(default_factory=Rule)
    packed: Rule | None = None
    autocast: Callable[[Formats, str, Device], Casting] = widest
    on_device: Callable[[Op, Formats, Device], Mapping[str, Any]] = alike
    carries: Callable[[Op], bool] = unless_detached
    as_first: bool = False
    stays: int | None = None
    inserted: bool = False
    casts_itself: bool = False
    is_loss: bool = False
    makes: Callable[[Op, Sequence[Tensor], Mapping[str, Part]], tuple[Tensor, ...]] | None = None
    passes: Callable[[Op, Sequence[bool], Mapping[str, bool]], tuple[bool, ...]] | None = None
