"""bsr-explorer: what a fine-tune will cost, and the best accuracy that a memory budget can buy.

The public interface. A name is imported when it is first asked for: ``predict`` needs no tensor; ``build``,
``measure``, ``fine_tune`` and ``load`` load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bsr_explorer.version import __version__

if TYPE_CHECKING:
    from bsr_explorer.config import Config, Fidelity
    from bsr_explorer.errors import UserError
    from bsr_explorer.finetune.build import build
    from bsr_explorer.finetune.measure import measure
    from bsr_explorer.finetune.ranks import choose_ranks
    from bsr_explorer.finetune.run import fine_tune
    from bsr_explorer.ledger import Ledger
    from bsr_explorer.methods import METHODS, Method, parse_method
    from bsr_explorer.prediction import predict
    from bsr_explorer.store.records import Record
    from bsr_explorer.trained.weights import load

_FROM = {
    "METHODS": "methods",
    "Config": "config",
    "Fidelity": "config",
    "Ledger": "ledger",
    "Method": "methods",
    "Record": "store.records",
    "UserError": "errors",
    "build": "finetune.build",
    "choose_ranks": "finetune.ranks",
    "fine_tune": "finetune.run",
    "load": "trained.weights",
    "measure": "finetune.measure",
    "parse_method": "methods",
    "predict": "prediction",
}
"""Where each name is imported from."""


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(import_module(f"bsr_explorer.{_FROM[name]}"), name)
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
    "choose_ranks",
    "fine_tune",
    "load",
    "measure",
    "parse_method",
    "predict",
]
