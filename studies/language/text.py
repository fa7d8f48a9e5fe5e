"""Text that every CPython ships, as bytes.

Two kinds: what the docstrings of the standard library say, and the topics that ``help()`` shows, which are pages of the
language reference (``pydoc_data.topics``).
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
"""Folders of the standard library that are not read."""


def docstrings() -> str:
    """All docstrings of the standard library, by path."""
    return "\n\n".join(_docstrings())


def _docstrings() -> Iterator[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        if LEFT_OUT & {*path.relative_to(folder).parts}:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue  # some files are there to be wrong
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                said = ast.get_docstring(node)
                if said:
                    yield said


def topics() -> str:
    """All topics of ``help()``, by name."""
    of_topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return "\n\n".join(of_topics[name] for name in sorted(of_topics))


def sequences(text: str, length: int) -> Tensor:
    """Bytes in rows of ``length`` + 1, (rows, length + 1), int64: each but the last predicts the next one."""
    numbers = torch.tensor(list(text.encode()), dtype=torch.int64)
    rows = len(numbers) // (length + 1)
    return numbers[: rows * (length + 1)].view(rows, length + 1)


def parted(rows: Tensor, held_out: float = 0.1) -> tuple[Tensor, Tensor]:
    """Rows for training, and the last ones, which are held out."""
    kept = round(len(rows) * (1 - held_out))
    return rows[:kept], rows[kept:]
