"""What installed packages name in entry points, and what is refused of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.extensions import add_found


class Kind:
    """Of which others bring some."""

    name = "kind"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package that names something in the group ``kinds``."""
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def install(*points: str) -> None:
        (about / "entry_points.txt").write_text("\n".join(["[kinds]", *points, ""]))

    return install


class Mine(Kind):
    """A kind."""

    name = "mine"


ONE = Mine()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module can be named in an entry point."""
    monkeypatch.setitem(sys.modules, "theirs", sys.modules[__name__])


def test_where_nothing_is_installed_nothing_is_added() -> None:
    registry: dict[str, Any] = {}
    add_found("bsr_explorer.nothing_is_called_this", registry, Kind)
    assert registry == {}


@pytest.mark.parametrize(("named", "found"), [("Mine", Mine), ("ONE", ONE)])
def test_a_class_or_an_instance_stands_under_its_own_name(package: Any, named: str, found: Any) -> None:
    package(f"anything = theirs:{named}")
    registry: dict[str, Any] = {"other": Kind}
    for _ in range(2):  # it may be found again
        add_found("kinds", registry, Kind)
        assert registry == {"other": Kind, "mine": found}


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (
            "mine = nowhere:Mine",
            r"mine = 'nowhere:Mine' of the group kinds cannot be loaded \(ModuleNotFound",
        ),
        ("mine = theirs:Nothing", r"cannot be loaded \(AttributeError.*mend or uninstall its package"),
        ("mine = json:dumps", "must be an instance or a subclass of Kind, and is <function dumps"),
        ("mine = theirs:Path", "must be an instance or a subclass of Kind"),
    ],
)
def test_what_cannot_be_used_is_said_by_the_name_of_its_entry_point(
    package: Any, point: str, said: str
) -> None:
    package(point)
    registry: dict[str, Any] = {}
    with pytest.raises(UserError, match=said):
        add_found("kinds", registry, Kind)
    assert registry == {}


def test_a_name_that_is_taken_is_refused(package: Any) -> None:
    package("mine = theirs:Mine", "mine_too = theirs:ONE")
    registry: dict[str, Any] = {}
    with pytest.raises(UserError, match="is called 'mine', and there is one of that name; rename it"):
        add_found("kinds", registry, Kind)
    assert registry == {"mine": Mine}  # the first by name
