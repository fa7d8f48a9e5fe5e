"""The house: which room may import which, and which must start without torch. The README draws it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bsr_explorer

PACKAGE = Path(bsr_explorer.__file__).parent

ROOMS: dict[str, str] = {
    "errors": "",
    "interrupt": "",
    "files": "interrupt",
    "version": "",
    "units": "errors",
    "ledger": "",
    "tape": "units",
    "operations": "units tape",
    "models": "errors tape",
    "storages": "units tape",
    "methods": "errors tape models storages",
    "cost": "units ledger tape operations models",
    "config": "errors methods models cost",
    "prediction": "config cost ledger models tape",
    "measurement": "units ledger",
    "train": "errors interrupt files units models",
    "data": "errors interrupt train",
    "prefix": "files interrupt units config prediction train data",
    "store": "errors files units version methods models config",
    "finetune": (
        "errors interrupt units config prediction models methods measurement ledger train data prefix store report"
    ),
    "damage": "errors config prefix data finetune",
    "trained": "errors interrupt files units version config methods models prediction train data store finetune damage",
    "compare": "errors interrupt units config methods models prediction train data store finetune damage",
    "search": "errors interrupt units config methods models cost prediction train data store finetune damage",
    "report": "errors files units config ledger cost prediction store",
}
"""What each room may import of the others; ``cli`` may import anything, and nothing imports it."""

LIGHT = (
    "errors",
    "interrupt",
    "files",
    "units",
    "ledger",
    "tape",
    "operations",
    "storages",
    "config",
    "methods",
    "cost",
    "prediction",
    "store",
    "report",
)
"""Rooms that must not load torch when they are imported (methods load it when they are applied)."""

HEAVY_FILES = {
    "methods/applied/checkpoint.py",
    "methods/applied/drop.py",
    "methods/applied/offload.py",
    "methods/applied/tokens.py",
    "storages/attention.py",
    "storages/functions.py",
    "storages/keeper.py",
    "storages/layers.py",
    "storages/packing.py",
    "storages/store.py",
}
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


def test_the_readme_draws_this_house() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    for room, allowed in ROOMS.items():
        lines = (line for line in readme.splitlines() if "│" in line)
        drawn = next((line for line in lines if line.split(maxsplit=1)[0] == room), None)
        assert drawn is not None, f"README.md does not draw {room}"
        right = drawn.split("│")[1].split() if "│" in drawn else []
        assert sorted(right) == sorted(allowed.split()), f"README.md draws {room} as {drawn!r}"
