"""LoRA-FA: what trains and what it keeps."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import LoraFA, parse_method
from bsr_explorer.prediction import predict

CONFIG = Config("toy", 48, 5, 2, method="lora_fa(r=2)")


def test_it_is_written_as_it_is_read() -> None:
    assert str(LoraFA(4)) == "lora_fa(r=4, on=('qkv',))"
    assert parse_method("lora_fa(r=4)") == LoraFA(4)


@pytest.mark.usefixtures("toy")
def test_second_matrices_and_the_head_train() -> None:
    trained = {name for name, p in build(CONFIG).named_parameters() if p.requires_grad}
    assert trained == {
        *(f"blocks.{block}.attn.qkv.lora_B.weight" for block in range(4)),
        "head.weight",
        "head.bias",
    }


@pytest.mark.usefixtures("toy")
def test_it_keeps_two_numbers_a_token_for_its_weights() -> None:
    """Those that the second matrix reads, and nothing for the first."""
    rows = {row.operation: row.bytes for row in predict(CONFIG) if row.kind == "saved"}
    tokens = 2 * 10
    for block in range(4):
        here = f"blocks.{block}.attn.qkv"
        assert rows[f"{here}.lora_B"] == tokens * 2 * 4
        assert not rows.get(here) and not rows.get(f"{here}.lora_A")
