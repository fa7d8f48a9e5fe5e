"""Full fine-tuning."""

from __future__ import annotations

import pytest

from bsr_explorer.methods import Full


@pytest.mark.parametrize("name", ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.3.norm1.bias"])
def test_everything_trains(name: str) -> None:
    assert Full().trains(name, depth=12)
