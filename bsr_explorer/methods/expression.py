"""Parses a method's expression as a literal. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import reduce
from operator import add

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.base import Method

Defaults = Callable[[type[Method], Mapping[str, object]], Mapping[str, object]]
"""Of a method's arguments that are left out, those that are not the class's own, beside those that are given."""


def parse(
    text: str, methods: dict[str, type[Method]], defaults: Defaults = lambda method, given: {}
) -> Method:
    """The method that an expression such as ``bsr(blocks=(3, 7), keep={3: 0.5})+mesa()`` says.

    Raises:
        UserError: not an expression (with the place), an unknown method or argument, or arguments that
            the method refuses.
    """
    return reduce(
        add, (method(**{**defaults(method, given), **given}) for method, given in calls(text, methods))
    )


def calls(text: str, methods: dict[str, type[Method]]) -> list[tuple[type[Method], dict[str, object]]]:
    """The methods of an expression, each with the arguments that it is given, before they are made.

    Raises:
        UserError: as ``parse``, but for arguments that a method refuses.
    """
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        column = error.offset or len(text) + 1  # an expression that stops too early has no place of its own
        raise UserError(
            f"--method: cannot read {text!r} at column {column} ({error.msg}); write a name such as bsr, "
            "or name(argument=value, …), joined with +"
        ) from None
    return [_call(node, text, methods) for node in _summands(tree)]


def parse_list(
    text: str, methods: dict[str, type[Method]], defaults: Defaults = lambda method, given: {}
) -> list[Method]:
    """The methods of a list such as ``full, last(k=3), bsr()+checkpoint()``, each once.

    Raises:
        UserError: as ``parse``, or a method that stands twice.
    """
    try:
        nodes = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError:
        nodes = None
    if not isinstance(nodes, ast.List) or not nodes.elts:
        return [parse(text, methods, defaults)]  # which says what is wrong with it
    found = [parse(ast.get_source_segment(f"[{text}]", node) or "", methods, defaults) for node in nodes.elts]
    twice = [str(method) for method in found if found.count(method) > 1]
    if twice:
        raise UserError(f"--methods: {twice[0]} stands twice; name each method once")
    return found


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _call(
    node: ast.expr, text: str, methods: dict[str, type[Method]]
) -> tuple[type[Method], dict[str, object]]:
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call else node
    if not isinstance(name, ast.Name):
        raise UserError(
            f"--method: cannot read {text!r} at column {node.col_offset + 1}: expected the name of a "
            f"method ({', '.join(methods)})"
        )
    if name.id not in methods:
        raise unknown("--method", name.id, methods)
    method = methods[name.id]
    return method, _arguments(call, method, text) if call else {}


def _arguments(call: ast.Call, method: type[Method], text: str) -> dict[str, object]:
    allowed = [field.name for field in fields(method)]
    takes = f"takes {', '.join(allowed)}" if allowed else "takes no arguments"
    if any(field.metadata.get("bare") == "each" for field in fields(method)) and call.args:
        each = ast.Tuple(list(call.args), ast.Load(), **_place_of(call.args[0]))
        call = ast.Call(call.func, [each], call.keywords)
    if len(call.args) > len(allowed):
        raise UserError(f"--method: {text!r}: {method.name} {takes}, and got {len(call.args)} values")
    given = [*zip(allowed, call.args, strict=False), *((k.arg or "**", k.value) for k in call.keywords)]
    values: dict[str, object] = {}
    for key, node in given:
        if key not in allowed:
            raise UserError(f"--method: {text!r}: {method.name} has no argument {key!r}; it {takes}")
        if key in values:
            raise UserError(f"--method: {text!r}: argument {key!r} is given twice")
        try:
            values[key] = ast.literal_eval(node)
            _refuse_repeated_keys(node, key, text)
        except UserError:
            raise
        except (ValueError, TypeError):
            raise UserError(
                f"--method: {text!r} at column {node.col_offset + 1}: {key} must be a literal value "
                "(numbers, text, True, False, tuples, lists, dictionaries)"
            ) from None
    return values


def _place_of(node: ast.expr) -> dict[str, int]:
    return {"lineno": node.lineno, "col_offset": node.col_offset}


def _refuse_repeated_keys(node: ast.expr, key: str, text: str) -> None:
    """A dictionary literal would silently keep the last of two equal keys."""
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(k) for k in node.keys if k is not None]
        twice = [k for k in keys if keys.count(k) > 1]
        if twice:
            raise UserError(f"--method: {text!r}: {key} names {twice[0]} twice; name each once")
