"""BitFit."""

from __future__ import annotations

import pytest

from bsr_explorer.methods import BitFit


@pytest.mark.parametrize(
    ("name", "trains"),
    [
        ("blocks.0.attn.qkv.bias", True),
        ("blocks.11.norm2.bias", True),
        ("patch_embed.proj.bias", True),
        ("norm.bias", True),
        ("head.bias", True),
        ("head.weight", True),
        ("blocks.0.attn.qkv.weight", False),
        ("norm.weight", False),
        ("cls_token", False),
        ("blocks.0.ls1.gamma", False),
    ],
)
def test_biases_and_the_head_train(name: str, trains: bool) -> None:
    assert BitFit().trains(name, depth=12) is trains
