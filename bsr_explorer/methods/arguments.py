"""Hyperparameters of methods: how they are written, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from bsr_explorer.errors import UserError
from bsr_explorer.methods.base import Method


def quiet(default: Any) -> Any:
    """A hyperparameter that the expression leaves out while it has its default."""
    return field(default=default, metadata={"quiet": True})


def bare(default: Any, each: bool = False) -> Any:
    """A hyperparameter that stands in the expression without its name, before all others; ``each``: a tuple, of which
    each value stands for itself."""
    metadata = {"bare": "each" if each else "whole"}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def checked_blocks(method: str, blocks: object) -> tuple[int, ...]:
    """Block indices in order.

    Raises:
        UserError: something that is no block index, or one that stands twice.
    """
    indices: list[Any] = (
        list(blocks)
        if isinstance(blocks, Iterable) and not isinstance(blocks, (str, Mapping, set))
        else [blocks]
    )
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise UserError(
                f"--method: {method}(blocks=…): {index!r} is no block index; use 0, 1, 2, … (0-based)"
            )
    twice = sorted({index for index in indices if indices.count(index) > 1})
    if twice:
        raise UserError(
            f"--method: {method}(blocks=…): block {twice[0]} is named twice; name each block once"
        )
    return tuple(sorted(indices))


def check_range(method: str, part: str, blocks: Iterable[int], depth: int, hint: str = "") -> None:
    """Refuse 0-based blocks that a model of ``depth`` blocks does not have.

    Args:
        part: the argument that names them.
        hint: what to write instead, after the sentence.

    Raises:
        UserError: a block out of range.
    """
    beyond = [block for block in blocks if block >= depth]
    if beyond:
        raise UserError(
            f"--method: {method}({part}=…): block {beyond[0]} is out of range; the model has {depth} "
            f"blocks, 0 to {depth - 1} (0-based){hint}"
        )


def check_flags(method: Method, flags: tuple[str, ...]) -> None:
    """Refuse hyperparameters that must be True or False and are not.

    Raises:
        UserError: with the flag and its value.
    """
    for flag in flags:
        if not isinstance(getattr(method, flag), bool):
            raise UserError(
                f"--method: {method.name}({flag}={getattr(method, flag)!r}): {flag} must be True or False"
            )
