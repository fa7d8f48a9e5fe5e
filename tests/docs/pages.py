"""What README and site ask a reader to type, and the output that they show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)

_DEPENDS_ON_THE_MACHINE = ("plan ", "data ", "how ", "expected time ", " " * 19 + "points)")
"""What lines of an output begin with that depend on the speed of the machine."""


@dataclass(frozen=True)
class Fence:
    """A block of code on a page.

    Attributes:
        title: the file that it is, or None.
        shows_output: whether the block right below shows what its commands print.
    """

    language: str
    title: str | None
    text: str
    shows_output: bool


@dataclass(frozen=True)
class Block:
    """Commands that stand together: what one of them leaves behind, the next ones may take up.

    Attributes:
        output: what the page shows right below as the output of the last, or None.
    """

    page: str
    commands: tuple[str, ...]
    output: str | None = None


def fences(text: str) -> list[Fence]:
    """The blocks of code of a page, in order."""
    found = list(_FENCE.finditer(text))
    made = []
    for place, fence in enumerate(found):
        below = found[place + 1] if place + 1 < len(found) else None
        shows = (
            fence[1] == "bash"
            and below is not None
            and below[1] == "text"
            and not text[fence.end() : below.start()].strip()
        )
        title = re.search(r'title="([^"]+)"', fence[2])
        made.append(Fence(fence[1], title and title[1], fence[3], shows))
    return made


def blocks() -> list[Block]:
    """The blocks of commands of all pages, in order, but for those that are followed in a folder of their own."""
    found = []
    for page, text in PAGES.items():
        each = fences(text)
        for place, fence in enumerate(each):
            if fence.language == "bash" and not page.startswith("docs/extend/"):
                output = each[place + 1].text if fence.shows_output else None
                found.append(Block(page, _commands(fence.text), output))
    return found


def python() -> dict[str, str]:
    """The examples in Python by page that are no file of a page that is followed."""
    return {
        page: fence.text
        for page, text in PAGES.items()
        for fence in fences(text)
        if fence.language == "python" and fence.title is None and "import bsr_explorer as bx" in fence.text
    }


def inline() -> list[str]:
    """Whole commands that stand within sentences, such as ``python benchmarks/grid.py``."""
    said = [code for text in PAGES.values() for code in re.findall(r"`([^`\n]+)`", text)]
    return [
        code
        for code in dict.fromkeys(said)
        if code.startswith(("bsr-explore ", "python ", "pytest ", "bash "))
    ]


def shown(output: str | None) -> list[str]:
    """The lines of an output that a command must print on any machine, with single spaces."""
    lines = (output or "").splitlines()
    return [" ".join(line.split()) for line in lines if not line.startswith(_DEPENDS_ON_THE_MACHINE)]


def _commands(block: str) -> tuple[str, ...]:
    lines = block.replace("\\\n", " ").splitlines()
    return tuple(
        part for line in lines for part in line.strip().split(" && ") if part and not part.startswith("#")
    )
