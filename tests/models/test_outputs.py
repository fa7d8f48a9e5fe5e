"""Logits of what models return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bsr_explorer.errors import UserError
from bsr_explorer.models.outputs import logits_of

LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "found", [LOGITS, SimpleNamespace(logits=LOGITS), {"out": LOGITS, "aux": None}, (LOGITS, 1), [LOGITS]]
)
def test_they_are_found(found: Any) -> None:
    assert logits_of(found) is LOGITS


@pytest.mark.parametrize("found", [None, {}, (), "text"])
def test_what_has_none_is_refused(found: Any) -> None:
    with pytest.raises(UserError, match=f"it returns a {type(found).__name__}"):
        logits_of(found)
