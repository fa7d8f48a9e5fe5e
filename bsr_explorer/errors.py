"""The one exception that a user is meant to read.

Everything that a user can get wrong (a flag, a key, a name, a file) raises ``UserError`` with one
line that names the key, the value, what is allowed and what to do. The command line prints that line
and exits with code 2. Our own invariants are asserts.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


class UserError(ValueError):
    """Bad input, explained in one line for the person who gave it."""


def nearest(value: str, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The names in ``allowed`` most like ``value``, best first."""
    return difflib.get_close_matches(value, list(allowed), n=count, cutoff=0.4)


def unknown(key: str, value: object, allowed: Iterable[str]) -> UserError:
    """``key`` has a ``value`` that is none of ``allowed``: say which are, and the nearest."""
    names = list(allowed)
    close = nearest(str(value), names, count=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return UserError(f"{key}: unknown value {value!r}{hint}; choose from {', '.join(names)}")


def require(package: str, what: str, extra: str, otherwise: str = "") -> None:
    """Refuse what needs a package that is not installed, without importing it.

    Args:
        what: the flag and its value, such as ``--optimizer: adamw_8bit``.
        extra: of this project, which brings the package.
        otherwise: what else could be done.

    Raises:
        UserError: the package is not installed.
    """
    if find_spec(package) is None:
        raise UserError(
            f'{what} needs {package}; install it with pip install "bsr-explorer[{extra}]"{otherwise}'
        )


def one_line(error: Exception) -> str:
    """What an exception says, as part of a line."""
    return " ".join(str(error).split()) or type(error).__name__


def unwritable(error: OSError, path: Path | str) -> str:
    """What could not be written, and why."""
    if error.errno == errno.EROFS:
        return f"{path} is on a read-only file system"
    return f"{path} cannot be written ({error.strerror or error})"
