"""``bsr-explore list``: the models, methods and datasets that there are."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated

import typer

from bsr_explorer.cli.console import out, table
from bsr_explorer.errors import unknown
from bsr_explorer.methods import METHODS
from bsr_explorer.models.names import ALIASES
from bsr_explorer.train.datasets import default_data_dir, list_datasets


def show(what: Annotated[str, typer.Argument(help="models, methods or datasets")]) -> None:
    """List what can stand after --model, --method or --data.

    Example:

      bsr-explore list methods
    """
    kinds = {"models": _models, "methods": _methods, "datasets": _datasets}
    if what not in kinds:
        raise unknown("list", what, kinds)
    kinds[what]()


def _models() -> None:
    out.print(table(["alias", "timm model"], list(ALIASES.items()), left=(0, 1)))
    out.print("\nAny other plain vision transformer goes by its timm name (DeiT, ViT, AugReg, DINOv2, …).")


def _methods() -> None:
    rows = []
    for name, method in METHODS.items():
        takes = [
            f.name
            if f.default is MISSING and f.default_factory is MISSING
            else f"{f.name}={getattr(method(), f.name)!r}"
            for f in fields(method)
        ]
        rows.append((name, method.summary, ", ".join(takes) or "–", method.citation))
    out.print(
        table(
            ["method", "what it does", "arguments and defaults", "source"],
            rows,
            left=(0, 1, 2, 3),
            fold=(1, 2, 3),
        )
    )


def _datasets() -> None:
    rows = [
        (
            str(entry["name"]),
            str(entry["classes"]),
            " / ".join(str(entry[part]) for part in ("train", "validation", "test")),
            str(entry["availability"]),
            str(entry["description"]),
        )
        for entry in list_datasets(default_data_dir())
    ]
    columns = ["data", "classes", "train / validation / test", "where", "what"]
    out.print(table(columns, rows, left=(0, 3, 4), fold=(4,)))
