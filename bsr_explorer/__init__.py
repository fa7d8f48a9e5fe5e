"""bsr-explorer: what a fine-tune will cost, and the best accuracy that a memory budget can buy.

The public interface. ``predict`` needs no tensor; ``build``, ``measure`` and ``fine_tune`` load torch
when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import METHODS, Method, parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.store.records import Record
from bsr_explorer.version import __version__

if TYPE_CHECKING:
    from bsr_explorer.run import build, fine_tune, measure

_RUN = ("build", "fine_tune", "measure")


def __getattr__(name: str) -> Any:
    if name in _RUN:
        from bsr_explorer import run

        return getattr(run, name)
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
    "measure",
    "parse_method",
    "predict",
]
