"""The house: which room may import which, and which must start without torch. The site draws it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bsr_explorer

PACKAGE = Path(bsr_explorer.__file__).parent

TABLE = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["rooms"]

ROOMS: dict[str, str] = TABLE["may_import"]
"""What each room may import of the others; ``cli`` may import anything, and nothing imports it."""

LIGHT: list[str] = TABLE["light"]
"""Rooms that must not load torch when they are imported (methods load it when they are applied)."""

HEAVY_FILES: list[str] = TABLE["heavy_files"]
"""Files of light rooms that are themselves only imported when a method is applied."""


def _files(room: str) -> list[Path]:
    path = PACKAGE / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [PACKAGE / f"{room}.py"]


def _imports(path: Path, at_start_only: bool) -> Iterator[str]:
    """Modules that a file imports; ``at_start_only``: not those within functions or for type checking."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(tree.body) if at_start_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            whole = node.module == "bsr_explorer"
            yield from (f"{node.module}.{a.name}" for a in node.names) if whole else (node.module,)


def test_every_room_is_known() -> None:
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert found - {"__init__", "__main__", "cli"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = {room, *ROOMS[room].split()}
    for path in _files(room):
        for module in _imports(path, at_start_only=False):
            if module.split(".")[0] == "bsr_explorer":
                assert module.split(".")[1] in allowed, f"{path.relative_to(PACKAGE)} imports {module}"


def test_the_picture_has_no_circle() -> None:
    above: dict[str, set[str]] = {room: set(allowed.split()) for room, allowed in ROOMS.items()}
    while above:
        ground = [room for room, needs in above.items() if not needs & above.keys()]
        assert ground, f"these rooms need one another: {sorted(above)}"
        above = {room: needs for room, needs in above.items() if room not in ground}


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_room_starts_without_torch(room: str) -> None:
    for path in _files(room):
        if path.relative_to(PACKAGE).as_posix() not in HEAVY_FILES:
            heavy = {module.split(".")[0] for module in _imports(path, at_start_only=True)}
            assert not heavy & {"torch", "timm", "torchvision"}, path


def test_the_report_knows_no_search_library() -> None:
    for path in _files("report"):
        assert not any(module.startswith("optuna") for module in _imports(path, at_start_only=False)), path


# --- tests ----------------------------------------------------------------------------------------------

TESTED_ELSEWHERE = {
    "__main__.py": "it calls the command line",
    "version.py": "it is a number",
}
"""Modules without a test file of their own, and why."""


def _does_something(path: Path) -> bool:
    """Whether any function of a file has a body (protocols have none), or the file says anything but imports."""
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    return any(
        not isinstance(part, ast.Expr) for function in functions for part in function.body
    )  # a docstring, or ...


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    without = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
        and _does_something(path)
        and not (tests / path.relative_to(PACKAGE)).with_name(f"test_{path.name}").exists()
    }
    assert without - TESTED_ELSEWHERE.keys() == set()
