"""Reading TOML files whose tables and keys are known: what may stand where, and errors that name the place."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bsr_explorer.errors import UserError, unknown

Kind = tuple[str, Callable[[Any], bool]]
"""What a value in a file must be: in words, and as a check."""

TEXT: Kind = ("text", lambda value: isinstance(value, str))
TRUTH: Kind = ("true or false", lambda value: isinstance(value, bool))
WHOLE: Kind = ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
NUMBER: Kind = ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))

TABLE_OF_TABLES: Kind = (
    "a table of arguments for each method, such as {mesa = {bits = [4, 8]}}",
    lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
)


def list_of(kind: Kind) -> Kind:
    """A list of such values."""
    words, fits = kind
    return f"a list, each item {words}", lambda value: isinstance(value, list) and all(map(fits, value))


TABLES: dict[str, dict[str, Kind]] = {
    "study": {"name": TEXT, "seed": WHOLE, "trials": WHOLE, "time_limit": NUMBER},
    "config": {
        "model": TEXT,
        "image_size": WHOLE,
        "num_classes": WHOLE,
        "batch_size": WHOLE,
        "precision": TEXT,
        "optimizer": TEXT,
        "attention": TEXT,
        "implementation": TEXT,
        "micro_batches": WHOLE,
        "set_to_none": TRUTH,
        "device": TEXT,
        "lr": NUMBER,
        "gpu": TEXT,
        "method": TEXT,
        "tasks": list_of(WHOLE),
    },
    "budget": {"bytes": TEXT, "counts": TEXT, "quantile": NUMBER},
    "data": {"name": TEXT, "weights": TEXT},
    "fidelity": {
        "image_size": WHOLE,
        "train_size": WHOLE,
        "val_size": WHOLE,
        "epochs": WHOLE,
        "recipe": TEXT,
        "views": WHOLE,
        "skip": list_of(TEXT),
        "protocol": TEXT,
    },
    "search": {
        "sampler": TEXT,
        "objectives": list_of(TEXT),
        "rungs": list_of(WHOLE),
        "replicas": WHOLE,
        "first": WHOLE,
        "prior": TEXT,
        "proxies": list_of(TEXT),
    },
    "space": {
        "families": list_of(TEXT),
        "axes": TABLE_OF_TABLES,
        "start": list_of(TEXT),
        "max_blocks": WHOLE,
        "drop_at": list_of(WHOLE),
        "keep": list_of(NUMBER),
        "fuse": list_of(TRUTH),
        "batch_sizes": list_of(WHOLE),
        "lr": list_of(NUMBER),
    },
}
"""What may stand in a study file: for each key of each table what it must be, in words and as a check."""


def read_tables(path: Path, allowed: Mapping[str, Mapping[str, Kind]]) -> dict[str, dict[str, Any]]:
    """The tables of a study file. A file without any is of a configuration alone: its keys are ``[config]``.

    Args:
        allowed: what may stand in the file.

    Raises:
        UserError: not there, not TOML, a table or key that does not exist, a value of another type.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    if tables and not any(isinstance(value, dict) for value in tables.values()):
        tables = {"config": tables}
    _check_tables(path, tables, allowed)
    return tables


def _check_tables(path: Path, tables: dict[str, Any], allowed: Mapping[str, Mapping[str, Kind]]) -> None:
    """Refuse tables, keys and types of values that are not allowed."""
    for table, values in tables.items():
        if table not in allowed:
            raise unknown(f"{path}: table", table, allowed)
        if not isinstance(values, dict):
            raise UserError(f"{path}: [{table}] must be a table of keys, and is {values!r}")
        for key, value in values.items():
            if key not in allowed[table]:
                raise unknown(f"{path}: key of [{table}]", key, allowed[table])
            kind, fits = allowed[table][key]
            if not fits(value):
                raise UserError(f"{path}: [{table}] {key} must be {kind}, and is {value!r}")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between settings, a line each: ``key: before → after``. (A list is what it was as a tuple.)"""

    def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}

    old, new = plain(before), plain(after)
    return [
        f"{key}: {old.get(key, 'unset')!r} → {new.get(key, 'unset')!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def flat(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Tables as one, its keys being ``table.key``."""
    return {f"{table}.{key}": value for table, values in tables.items() for key, value in values.items()}
