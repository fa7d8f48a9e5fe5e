"""Names of models that say their numbers: ``tinyllama(chunk=1024)``. They are parsed as literals, never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any, NamedTuple

from bsr_explorer.errors import UserError, unknown


class Said(NamedTuple):
    """What a name says.

    Attributes:
        name: before the parentheses.
        first: what stands first within them, if it has no name; a bare word or a text.
        options: what has a name.
    """

    name: str
    first: str | None
    options: dict[str, Any]


def name_in(model: str) -> str:
    """What stands before the parentheses of a model's name, if there are any."""
    return model.partition("(")[0].strip()


def parsed(model: str, allowed: Collection[str]) -> Said:
    """What a model's name says.

    Args:
        allowed: names of options.

    Raises:
        UserError: it cannot be read, or has another option.
    """
    try:
        tree = ast.parse(model.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return Said(tree.id, None, {})
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and len(tree.args) < 2):
            raise ValueError("expected name(model, option=value, …)")
        options = {str(keyword.arg): _value(keyword.value) for keyword in tree.keywords}
        first = _word(tree.args[0]) if tree.args else None
    except (SyntaxError, ValueError, TypeError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error).splitlines()[0]
        raise UserError(f"--model: cannot read {model!r} ({why}); write name(option=value, …)") from None
    for key in options:
        if key not in allowed:
            raise unknown(f"--model: {tree.func.id}(…)", key, allowed)
    return Said(tree.func.id, first, options)


def _word(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    value = _value(node)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name of a model")
    return value


def _value(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no number, text or tuple of these") from None


def check_whole(model: str, key: str, value: object, least: int = 1) -> None:
    """Refuse what must be a whole number and is not.

    Raises:
        UserError: with the option and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"--model: {model}: {key}={value!r} must be a whole number of at least {least}")


def check_number(model: str, key: str, value: object, least: float = 0.0) -> None:
    """Refuse what must be a number above a least one and is not.

    Raises:
        UserError: with the option and its value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < float("inf"):
        raise UserError(f"--model: {model}: {key}={value!r} must be a number above {least:g}")
