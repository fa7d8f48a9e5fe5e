"""What ``--data`` may say beside a name: a data set that is made of another, and several data sets as tasks. Nothing
here imports torch, NumPy or Pillow.

::

    turned(fashion_mnist)                                   a data set made of another
    tasks(digits, turned(fashion_mnist), photos)            three tasks; photos is an image folder
    tasks(digits, fashion_mnist, batches=by_task)           each batch of one task
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bsr_explorer.errors import UserError, unknown

TASKS = "tasks"
"""What an expression of several tasks begins with."""

BATCHES = ("mixed", "by_task")
"""How the images of tasks come together: in any batch those of all tasks, shuffled; or each batch of one task."""


@dataclass(frozen=True)
class Made:
    """How a data set is made of another.

    Attributes:
        summary: what its images are, and what is to be said of them.
        classes: their names, of those of the other.
        of: the only data set that it can be made of; None: any.
    """

    summary: str
    classes: Callable[[int], tuple[str, ...]]
    of: str | None = None


QUARTERS = tuple((a, b) for a in range(1, 5) for b in range(a + 1, 5))
"""Pairs of an image's quarters: 1 and 2 above, 3 and 4 below."""

MADE: dict[str, Made] = {
    "turned": Made(
        "each image by a quarter turn, or none: which",
        lambda classes: ("0 degrees", "90 degrees", "180 degrees", "270 degrees"),
    ),
    "swapped": Made(
        "two quarters of each image in each other's place, or none: which",
        lambda classes: ("none", *(f"{a} and {b}" for a, b in QUARTERS)),
    ),
    "sums": Made(
        "two digits side by side: their sum",
        lambda classes: tuple(str(total) for total in range(2 * classes - 1)),
        of="digits",
    ),
}
"""The data sets that are made of others, by the name of what is done."""


@dataclass(frozen=True)
class Tasks:
    """Several data sets, each with classes of its own.

    Attributes:
        members: expressions of each.
        by_task: whether each batch is of one task.
    """

    members: tuple[str, ...]
    by_task: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What each task is called: an image folder by its last part, if no other task is."""
        short = [Path(member).name if "(" not in member else member for member in self.members]
        return tuple(
            whole if short.count(name) > 1 else name for name, whole in zip(short, self.members, strict=True)
        )


_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)


def _called(data: str) -> tuple[str, str] | None:
    """The name before parentheses, and what is in them; None for anything else, such as a folder that is there."""
    found = _CALL.fullmatch(data)
    if found is None or (found[1] not in (TASKS, *MADE) and Path(data).expanduser().exists()):
        return None
    return found[1], found[2]


def tasks_in(data: str) -> Tasks | None:
    """The tasks that an expression names; None: it is of one data set.

    Raises:
        UserError: there are fewer than two, one stands twice, or something else is wrong with it.
    """
    called = _called(data)
    if called is None or called[0] != TASKS:
        return None
    members, by_task = [], False
    for part in _parts(data, called[1]):
        key, equals, value = (text.strip() for text in part.partition("="))
        if equals and key == "batches":
            if value not in BATCHES:
                raise unknown(f"--data: {data}: batches", value, BATCHES)
            by_task = value == "by_task"
        else:
            members.append(part)
    if not members:
        raise UserError(f"--data: {data!r} names no data set; write {TASKS}(digits, fashion_mnist)")
    if len(members) == 1:
        raise UserError(f"--data: {data!r} has one task; name it directly: {members[0]}")
    for place, member in enumerate(members):
        if member in members[:place]:
            raise UserError(f"--data: {member} stands twice in {data!r}; name each task once")
        if (inner := _called(member)) is not None and inner[0] == TASKS:
            raise UserError(f"--data: {member!r} stands within {data!r}; name all tasks side by side")
    return Tasks(tuple(members), by_task)


def made_in(data: str) -> tuple[str, str] | None:
    """How a data set is made (a key of ``MADE``), and of which; None: it is not made of another.

    Raises:
        UserError: there is no such way, or it is not made of this one.
    """
    called = _called(data)
    if called is None:
        return None
    name, inner = called[0], called[1].strip()
    if name not in MADE:
        raise unknown(f"--data: {data}", name, (TASKS, *MADE))
    if not inner or (within := _called(inner)) is not None:
        what = "nothing" if not inner else within and f"{within[0]}(…)"
        raise UserError(
            f"--data: {data!r}: {name} is made of one data set, not of {what}; write {name}(digits)"
        )
    if (of := MADE[name].of) is not None and inner != of:
        raise UserError(f"--data: {data!r}: {name} is made of {of}; write {name}({of})")
    return name, inner


def in_paths(data: str) -> str:
    """A value of ``--data`` as a part of a folder's name."""
    if _called(data) is None:
        return Path(data).name
    return re.sub(r"[^\w.+-]+", "-", data).strip("-")


def _parts(data: str, inner: str) -> list[str]:
    """What stands between the commas that are in no parentheses of their own."""
    parts, depth = [""], 0
    for letter in inner:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    stripped = [part.strip() for part in parts]
    if depth or (len(stripped) > 1 and not all(stripped)):
        raise UserError(f"--data: cannot read {data!r}; write {TASKS}(digits, fashion_mnist)")
    return [part for part in stripped if part]
