"""(IA)³: how many parameters, how they are merged, what they keep."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from bsr_explorer.config import Config
from bsr_explorer.methods import Ia3, parse_method
from bsr_explorer.prediction import predict, tape_of


def test_it_is_written_as_it_is_read() -> None:
    assert str(Ia3()) == "ia3"
    assert parse_method("ia3") == Ia3()


def test_a_block_has_two_and_m_factors_a_channel() -> None:
    tape = tape_of(Config("deit_s", 112, 10, 2, method="ia3"))
    own = [p.numel for p in tape.parameters.values() if p.trains and p.block == 3]
    assert sorted(own) == [2 * 384, 4 * 384]


@pytest.mark.parametrize("bias", [True, False])
def test_factors_of_outputs_are_merged_into_rows_and_of_inputs_into_columns(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    names = {
        "attn.qkv.weight": (6, 4),
        "attn.qkv.bias": (6,),
        "attn.qkv.ia3.gamma": (4,),
        "mlp.fc2.weight": (3, 5),
        "mlp.fc2.bias": (3,),
        "mlp.fc2.ia3.gamma": (5,),
    }
    weights = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    weights = {name: weight for name, weight in weights.items() if bias or "bias" not in name}
    merged = Ia3().merge(weights)
    assert merged.keys() == {name for name in weights if "ia3" not in name}
    x, hidden = torch.randn(2, 4, generator=generator), torch.randn(2, 5, generator=generator)
    qkv = linear(x, weights["attn.qkv.weight"], weights.get("attn.qkv.bias"))
    qkv[:, 2:] *= weights["attn.qkv.ia3.gamma"]
    torch.testing.assert_close(linear(x, merged["attn.qkv.weight"], merged.get("attn.qkv.bias")), qkv)
    out = linear(
        hidden * weights["mlp.fc2.ia3.gamma"], weights["mlp.fc2.weight"], weights.get("mlp.fc2.bias")
    )
    torch.testing.assert_close(linear(hidden, merged["mlp.fc2.weight"], merged.get("mlp.fc2.bias")), out)


def test_it_keeps_both_tensors_that_it_multiplies() -> None:
    """Beside what passing a gradient takes: queries, keys and values unscaled, and the activated hidden layer."""
    config, tokens, width = Config("deit_s", 112, 10, 4), 4 * 50, 384
    ia3, floor = (
        predict(config.with_method(text)).by_block()["5"]["saved"] for text in ("ia3", "vpt(tokens=1)")
    )
    floor = floor * tokens // (4 * 51)  # of as many tokens (log-sum-exps and statistics among them)
    assert ia3 - floor == 4 * tokens * (3 * width + 4 * width)
