"""Fine-tunes of the toy that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.store.records import Record
from bsr_explorer.train.recipes import RECIPES

BSR = "bsr(blocks=(0, 2), keep={1: 0.5}, fuse=True)"

CONFIG = Config(model="toy", image_size=48, batch_size=4, method=BSR)

PROXY = Fidelity(image_size=32, train_size=20, val_size=20, epochs=1)


def tune(config: Config = CONFIG, fidelity: Fidelity = PROXY, **options: Any) -> Record:
    return fine_tune(config, "digits", fidelity, **{"weights": "random", **options})


def change_recipe(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setitem(RECIPES, "short", replace(RECIPES["short"], **changes))


Weights = Callable[[], list[torch.Tensor]]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    """To the last bit (what a keeper has not seen yet is no number)."""
    return all(torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9)) for a, b in zip(some, others, strict=True))


def told(record: Record) -> dict[str, Any]:
    """All that a record says but times."""
    values = record.to_dict()
    return {key: values[key] for key in values if key not in ("seconds", "step_seconds", "provenance")}


TWO, THREE = (replace(PROXY, epochs=epochs) for epochs in (2, 3))
