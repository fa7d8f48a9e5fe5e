"""The linear probe."""

from __future__ import annotations

import pytest

from bsr_explorer.methods import Linear


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("head.weight", True),
        ("head.bias", True),
        ("norm.weight", False),
        ("fc_norm.bias", False),
        ("blocks.11.mlp.fc2.bias", False),
        ("cls_token", False),
    ],
)
def test_only_the_head_trains(name: str, trains: bool) -> None:
    assert Linear().trains(name, depth=12) is trains
