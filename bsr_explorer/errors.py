"""The one exception that a user is meant to read.

Everything that a user can get wrong (a flag, a key, a name, a file) raises ``UserError`` with one
line that names the key, the value, what is allowed and what to do. The command line prints that line
and exits with code 2. Our own invariants are asserts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
