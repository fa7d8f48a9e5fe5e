"""The rooms of the code, drawn from the table that the tests keep, and its files, each with its own first line.

The table is ``[tool.rooms]`` in ``pyproject.toml``; what a room and a file is for is the first line of its docstring.
"""

from __future__ import annotations

import ast
import html
import re
import tomllib
from itertools import groupby
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bsr_explorer"
WIDTH, BOX, HEIGHT, GAP = 1080, 112, 34, 40
"""Of the drawing, and of a room in it, in pixels."""

Rooms = dict[str, set[str]]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put drawing, table and files where a page says so."""
    for mark, make in (("<!-- drawing -->", drawing), ("<!-- table -->", table), ("<!-- tree -->", tree)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def read() -> tuple[Rooms, set[str]]:
    """Each room with the rooms that it may import, and the rooms that load no torch when they are imported."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["rooms"]
    return {room: set(needs.split()) for room, needs in table["may_import"].items()}, set(table["light"])


def floors(rooms: Rooms) -> list[list[str]]:
    """The rooms from the ground up: each stands one floor above the highest that it may import."""
    floor: dict[str, int] = {}
    while len(floor) < len(rooms):
        for room, needs in rooms.items():
            if room not in floor and needs <= floor.keys():
                floor[room] = 1 + max((floor[need] for need in needs), default=-1)
    ordered = sorted(rooms, key=lambda room: floor[room])
    return [list(group) for _, group in groupby(ordered, key=lambda room: floor[room])]


def direct(rooms: Rooms) -> Rooms:
    """Each room with what it needs, without what those need anyway: the lines that are drawn."""
    below: Rooms = {}
    for floor in floors(rooms):
        for room in floor:
            below[room] = rooms[room].union(*(below[need] for need in rooms[room]))
    return {room: needs - set().union(*(below[need] for need in needs)) for room, needs in rooms.items()}


def drawing() -> str:
    """The rooms floor by floor, as SVG: lines lead to what a room needs, and are bold under the pointer."""
    rooms, light = read()
    rooms = {**rooms, "cli": set(rooms)}
    lines = direct(rooms)
    place: dict[str, tuple[float, float]] = {}
    stack = floors(rooms)
    for level, floor in enumerate(stack):
        # A room stands near what it needs, so that lines seldom cross.
        floor.sort(key=lambda room: _middle([place[need][0] for need in lines[room]]))
        y = (len(stack) - 1 - level) * (HEIGHT + GAP) + 4
        for position, room in enumerate(floor):
            place[room] = ((position + 0.5) * WIDTH / len(floor), y)
    bold = "{stroke:var(--md-accent-fg-color);stroke-width:2.5;opacity:1}"
    marked = [f".house svg:has(.room-{room}:hover) .from-{room}{bold}" for room in rooms]
    drawn = []
    for room, needs in lines.items():
        for need in sorted(needs):
            (x, y), (to, below) = place[room], place[need]
            start, middle = y + HEIGHT, (y + HEIGHT + below) / 2
            curve = f"M{x:.0f} {start:.0f}C{x:.0f} {middle:.0f} {to:.0f} {middle:.0f} {to:.0f} {below:.0f}"
            drawn.append(f'<path class="from-{room}" d="{curve}"/>')
    for room, (x, y) in place.items():
        kind = "light" if room in light else "heavy"
        drawn.append(
            f'<g class="room room-{room} {kind}"><title>{html.escape(_plain(what_is(room)))}</title>'
            f'<rect x="{x - BOX / 2:.0f}" y="{y:.0f}" width="{BOX}" height="{HEIGHT}" rx="5"/>'
            f'<text x="{x:.0f}" y="{y + HEIGHT / 2 + 5:.0f}">{room}</text></g>'
        )
    height = len(stack) * (HEIGHT + GAP) - GAP + 8
    return (
        f'<div class="house" markdown="0"><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The rooms, floor by floor"><style>{"".join(marked)}</style>{"".join(drawn)}</svg></div>'
    )


def table() -> str:
    """The rooms from the top down, each with what it is and what it may import."""
    rooms, _ = read()
    rows = [
        f"| `{room}` | {_inline(what_is(room))} | {' '.join(f'`{need}`' for need in sorted(rooms[room]))} |"
        for floor in reversed(floors(rooms))
        for room in floor
    ]
    return "\n".join(["| room | what it is | it may import |", "|---|---|---|", *rows])


def tree() -> str:
    """Every file of the package with the first line of its docstring; a room a fold."""
    parts = []
    paths = sorted(PACKAGE.rglob("*.py"), key=_by_room)
    for room, group in groupby(paths, key=lambda path: _by_room(path)[0]):
        rows = [
            f"<tr><td><code>{path.relative_to(PACKAGE / room).as_posix()}</code></td>"
            f"<td>{_html(_first_line(path))}</td></tr>"
            for path in group
            if path.name != "__init__.py" or not room
        ]
        said = f"<code>{room}/</code> {_html(what_is(room))}" if room else "<code>bsr_explorer/</code>"
        parts.append(
            f'<details class="files" markdown="0"><summary>{said}</summary><table>{"".join(rows)}</table></details>'
        )
    return "\n\n".join(parts)


def what_is(room: str) -> str:
    """What a room is for: the first line of its docstring."""
    path = PACKAGE / room
    return _first_line(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def _first_line(path: Path) -> str:
    """The first sentence's line of a module's docstring, which may go on until the first blank line."""
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(said.split("\n\n")[0].split())


def _by_room(path: Path) -> tuple[str, str]:
    parts = path.relative_to(PACKAGE).parts
    return (parts[0] if len(parts) > 1 else "", path.as_posix())


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else WIDTH / 2


def _inline(text: str) -> str:
    """reStructuredText's double backticks as Markdown's single ones."""
    return re.sub(r"``(.+?)``", r"`\1`", text).replace("|", "\\|")


def _html(text: str) -> str:
    return re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(text))


def _plain(text: str) -> str:
    return text.replace("``", "")
