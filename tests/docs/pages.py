"""What README and site ask a reader to type, and the output that they show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands that stand together: what one of them leaves behind, the next ones may take up.

    Attributes:
        output: what the page shows right below as their output, or None.
    """

    page: str
    commands: tuple[str, ...]
    output: str | None = None


def blocks() -> list[Block]:
    """The blocks of commands of all pages, in order."""
    found = []
    for page, text in PAGES.items():
        fences = list(_FENCE.finditer(text))
        for fence, below in zip_longest(fences, fences[1:]):
            if fence[1] == "bash":
                shown = (
                    below is not None and below[1] == "text" and not text[fence.end() : below.start()].strip()
                )
                output = below[3] if below is not None and shown else None
                found.append(Block(page, _commands(fence[3]), output))
    return found


def python() -> dict[str, str]:
    """The examples in Python by page, those that need nothing but what they import."""
    found = [(page, fence) for page, text in PAGES.items() for fence in _FENCE.finditer(text)]
    return {
        page: fence[3]
        for page, fence in found
        if fence[1] == "python" and "import bsr_explorer as bx" in fence[3]
    }


def inline() -> list[str]:
    """Whole commands that stand within sentences, such as ``python benchmarks/grid.py``."""
    said = [code for text in PAGES.values() for code in re.findall(r"`([^`\n]+)`", text)]
    return [
        code
        for code in dict.fromkeys(said)
        if code.startswith(("bsr-explore ", "python ", "pytest ", "bash "))
    ]


def _commands(block: str) -> tuple[str, ...]:
    lines = block.replace("\\\n", " ").splitlines()
    return tuple(
        part for line in lines for part in line.strip().split(" && ") if part and not part.startswith("#")
    )
