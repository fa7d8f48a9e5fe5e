"""How much weights changed."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import SlimFit
from bsr_explorer.methods.observed import SAMPLE

pytestmark = pytest.mark.usefixtures("toy")


def test_a_change_is_relative_to_what_was_and_is_told_once() -> None:
    how = SlimFit(0.5)
    model = build(Config("toy", 48, method=how))
    assert model.get_buffer("remembered.values").shape[1] <= SAMPLE
    with torch.no_grad():
        model.get_parameter("blocks.2.attn.qkv.weight").mul_(1.25)
    changes = how.changes(model)
    assert changes[2] == pytest.approx(0.25, rel=1e-5)
    assert sum(changes) == pytest.approx(0.25, rel=1e-5)
    assert how.changes(model) == [0.0] * 16
