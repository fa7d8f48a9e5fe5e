"""What other packages bring, by entry points: methods, architectures and devices of their own.

In the ``pyproject.toml`` of such a package::

    [project.entry-points."bsr_explorer.methods"]
    lora = "my_package.lora:LoRA"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from bsr_explorer.errors import UserError


def add_found(group: str, registry: dict[str, Any], kind: type) -> None:
    """Add to a registry what installed packages name in a group of entry points.

    What a package names is an instance or a subclass of ``kind``, and stands under its own ``name``. It may be found
    again.

    Raises:
        UserError: it cannot be loaded, is of another kind, or has a name that is taken.
    """
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        where = f"the entry point {point.name} = {point.value!r} of the group {group}"
        try:
            found = point.load()
        except Exception as error:  # whatever a package that is not ours does when it is loaded
            raise UserError(
                f"{where} cannot be loaded ({type(error).__name__}: {error}); mend or uninstall its package"
            ) from error
        given = isinstance(found, kind) or (isinstance(found, type) and issubclass(found, kind))
        if not given:
            raise UserError(f"{where} must be an instance or a subclass of {kind.__name__}, and is {found!r}")
        if registry.get(found.name, found) is not found:
            raise UserError(f"{where} is called {found.name!r}, and there is one of that name; rename it")
        registry[found.name] = found
