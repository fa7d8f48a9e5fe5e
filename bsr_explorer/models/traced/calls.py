"""What a trace consists of: calls, with places in their arguments for tensors, and sizes that follow the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

DTYPES: dict[torch.dtype, str] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
"""What the package calls torch's number formats."""


@dataclass(frozen=True)
class Place:
    """In arguments: the tensor with this number stands here."""

    number: int


@dataclass(frozen=True)
class Sized:
    """In arguments and shapes: a whole number that grows with the batch: ``each`` an image, and ``beside``."""

    each: int
    beside: int

    def at(self, batch: int) -> int:
        """For so many images."""
        return self.each * batch + self.beside


@dataclass(frozen=True)
class Spec:
    """How a tensor lies in memory.

    Attributes:
        shape, stride: elements.
    """

    shape: tuple[Any, ...]
    stride: tuple[Any, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Spec:
        """Of a tensor."""
        return cls(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


@dataclass(frozen=True)
class Given:
    """A tensor that a call is given: another call's result, by name, or a parameter, a buffer, or an input."""

    kind: Literal["read", "parameter", "buffer"]
    name: str
    spec: Spec


@dataclass(frozen=True)
class Made:
    """A tensor that a call makes.

    Attributes:
        shows: number of the given tensor whose memory it shows; None: memory of its own.
        like: number of an earlier result whose memory it shows.
    """

    name: str
    spec: Spec
    shows: int | None = None
    like: int | None = None


@dataclass(frozen=True)
class Call:
    """A call of a function of torch.

    Attributes:
        path: of the module that makes it.
        function, args, kwargs: what is called; in place of tensors stand places.
        changes: numbers of the given tensors that it changes in place.
        views: of these, how each that is a view lies in what it is a view of, which is given in its place, and
            changes, too.
        detached: whether it is made without a graph.
    """

    path: str
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    given: tuple[Given, ...]
    made: tuple[Made, ...]
    changes: tuple[int, ...] = ()
    views: tuple[tuple[int, Spec, int], ...] = ()
    detached: bool = False

    @property
    def name(self) -> str:
        """What is called, in short."""
        return name_of(self.function)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function of torch."""
    owner = getattr(function, "__self__", None)  # of a property's getter, the property
    name = getattr(function, "__name__", str(function))
    return str(getattr(owner, "__name__", name)) if name == "__get__" else str(name)


@dataclass(frozen=True)
class Trace:
    """The forward pass of a model, call by call.

    Attributes:
        inputs: what it is given, by name.
        constants: tensors of the model that are neither parameters nor buffers.
        held: of each memory, by the name of the tensor that brought it, the call after which it is gone.
        loss: the last tensor.
        autocast: number format that autocast used.
    """

    calls: tuple[Call, ...]
    inputs: Mapping[str, Spec]
    constants: Mapping[str, Spec]
    held: Mapping[str, int]
    loss: str
    autocast: torch.dtype | None = None

    def at(self, batch: int) -> Trace:
        """The same with so many images."""
        return replace(
            self,
            calls=tuple(mapped(call, lambda leaf: _at(leaf, batch)) for call in self.calls),
            inputs={name: mapped(spec, lambda leaf: _at(leaf, batch)) for name, spec in self.inputs.items()},
        )


def _at(leaf: Any, batch: int) -> Any:
    return leaf.at(batch) if isinstance(leaf, Sized) else leaf


def mapped(structure: Any, change: Callable[[Any], Any]) -> Any:
    """A structure with all its leaves changed."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(mapped(each, change) for each in structure))
    if isinstance(structure, (tuple, list)):
        made = [mapped(each, change) for each in structure]
        return made if isinstance(structure, list) else tuple(made)
    if isinstance(structure, dict):
        return {key: mapped(value, change) for key, value in structure.items()}
    if isinstance(structure, slice):
        return slice(*(mapped(each, change) for each in (structure.start, structure.stop, structure.step)))
    if isinstance(structure, (Call, Given, Made, Spec)):
        return replace(
            structure,
            **{key: mapped(value, change) for key, value in vars(structure).items() if key != "function"},
        )
    return change(structure)


def leaves(structure: Any) -> Iterator[Any]:
    """All leaves of a structure, in order."""
    found: list[Any] = []
    mapped(structure, found.append)
    return iter(found)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, torch does not log what it then raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


class Differs(Exception):
    """Two traces are of different calls; the text says where."""


def joined(small: Trace, batch: int, large: Trace, beyond: int) -> Trace:
    """One trace for all batch sizes, of the traces of two.

    Raises:
        Differs: the batch size decides what is called.
    """
    if len(small.calls) != len(large.calls) or dict(small.held) != dict(large.held):
        raise Differs("as many calls")
    calls = []
    for one, other in zip(small.calls, large.calls, strict=True):
        if one.path != other.path or one.name != other.name:
            raise Differs(f"{one.name} in {one.path or 'the model'}, {other.name} in {other.path}")
        values = leaves(other)

        def fit(leaf: Any, values: Iterator[Any] = values, one: Call = one) -> Any:
            return _fit(leaf, next(values), batch, beyond, one)

        calls.append(mapped(one, fit))
    inputs = {}
    for name, spec in small.inputs.items():
        theirs = leaves(large.inputs[name])
        inputs[name] = mapped(spec, partial(_fit_input, theirs, batch, beyond))
    return replace(small, calls=tuple(calls), inputs=inputs)


def _fit_input(theirs: Iterator[Any], batch: int, beyond: int, leaf: Any) -> Any:
    return _fit(leaf, next(theirs), batch, beyond, None)


def _fit(one: Any, other: Any, batch: int, beyond: int, call: Call | None) -> Any:
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (one, other))
    if whole and one != other:
        each, left = divmod(other - one, beyond - batch)
        if left:
            raise Differs(f"{one} and {other} in {call.name if call else 'an input'}")
        return Sized(each, one - each * batch)
    if type(one) is not type(other) or not (whole or one is other or _same(one, other)):
        raise Differs(f"{one} and {other} in {call.name if call else 'an input'}")
    return one


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, TypeError, ValueError):
        return False
