"""Arguments that may differ from layer to layer: one value for all, or a dictionary of values, by layer (``fc2``) or by
block (0-based) and layer (``3.fc2``, which goes before). A layer that a dictionary does not name is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.adding import LAYERS

T = TypeVar("T")


def checked(method: str, argument: str, given: Any, check: Callable[[str, Any], T]) -> T | Mapping[str, T]:
    """What was given, each value checked, the keys of a dictionary in the order of the model.

    Args:
        check: takes how a value was written and the value, and returns it as it is kept.

    Raises:
        UserError: a key names no layer, or a value is refused.
    """
    if not isinstance(given, Mapping):
        return check(f"{argument}={given!r}", given)
    if not given:
        raise UserError(
            f"--method: {method}({argument}={{}}): no layer is named; name some, such as 'fc2' or '3.fc2', or give "
            "one value for all"
        )
    places = {str(key): _place(method, argument, key) for key in given}
    named = {str(key): check(f"{argument}={{{key!r}: {value!r}}}", value) for key, value in given.items()}
    return {key: named[key] for key in sorted(named, key=places.__getitem__)}


def layers_of(given: Mapping[str, object]) -> tuple[str, ...]:
    """The layers that a dictionary names, in the order of ``LAYERS``."""
    named = {key.rpartition(".")[2] for key in given}
    return tuple(layer for layer in LAYERS if layer in named)


def value_in(given: T | Mapping[str, T], block: int, layer: str) -> T | None:
    """The value for a layer (a name of ``LAYERS``) of a block (0-based); None: it is left as it is."""
    if not isinstance(given, Mapping):
        return given
    value: T | None = given.get(f"{block}.{layer}", given.get(layer))
    return value


def check_blocks(method: str, argument: str, given: object, depth: int) -> None:
    """Refuse a block that a model of so many blocks does not have.

    Raises:
        UserError: with the blocks that there are.
    """
    for key in given if isinstance(given, Mapping) else ():
        if _place(method, argument, key)[0] >= depth:
            raise UserError(
                f"--method: {method}({argument}=…): {key!r} names no block; the model has {depth} blocks, 0 to "
                f"{depth - 1} (0-based)"
            )


def _place(method: str, argument: str, key: object) -> tuple[int, int]:
    """Of a key, its block (-1: all of them) and the place of its layer.

    Raises:
        UserError: it names no layer.
    """
    block, _, layer = str(key).rpartition(".")
    if layer not in LAYERS:
        raise unknown(f"--method: {method}({argument}={{…}})", key, LAYERS)
    if block and not block.isdecimal():
        raise UserError(
            f"--method: {method}({argument}={{…}}): {key!r} must be a layer, such as 'fc2', or a block (0-based) and a "
            "layer, such as '3.fc2'"
        )
    return int(block or -1), list(LAYERS).index(layer)
