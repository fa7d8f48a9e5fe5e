"""bsr-explorer: what a fine-tune will cost, and the best accuracy that a memory budget can buy.

The public interface. ``predict`` needs no tensor; ``build``, ``measure``, ``fine_tune`` and ``load``
load torch when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import METHODS, Method, parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.store.records import Record
from bsr_explorer.version import __version__

if TYPE_CHECKING:
    from bsr_explorer.artifact.trained import load
    from bsr_explorer.run import build, fine_tune, measure

_LATE = {"build": "run", "fine_tune": "run", "measure": "run", "load": "artifact.trained"}
"""What is imported when it is asked for, and from where."""


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"bsr_explorer.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METHODS",
    "Config",
    "Fidelity",
    "Ledger",
    "Method",
    "Record",
    "UserError",
    "__version__",
    "build",
    "fine_tune",
    "load",
    "measure",
    "parse_method",
    "predict",
]
