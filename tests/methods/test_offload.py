"""Offloading: blocks whose saved tensors go elsewhere, and what that saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import parse_method
from bsr_explorer.prediction import predict
from tests.cost.conftest import Both
from tests.cost.conftest import both as both

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", image_size=48, batch_size=2, method="full")
BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"


@pytest.mark.parametrize(
    "method", ["offload", f"{BSR}+offload", "last(k=2)+offload(blocks=(3,))", "checkpoint+offload"]
)
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize("attention", ["fused", "math"])
def test_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    config = replace(CONFIG, method=method, precision=precision, attention=attention)
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_node_of_an_explicit_attention_lets_go_of_what_came_back_for_it(
    both: Both, precision: str
) -> None:
    """With few tokens, the peak is where the gradients of queries, keys and values are laid together."""
    options: dict[str, Any] = {"img_size": 24, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 1}
    predicted, measured = both("full+offload", "math", 8, precision, **options)
    assert predicted.peak is not None and predicted.peak.operation.endswith("attn")
    assert (predicted.peak_bytes, (predicted - measured).rows) == (measured.peak_bytes, ())


def test_chosen_blocks_keep_nothing_here() -> None:
    predicted = predict(CONFIG.with_method("offload(blocks=(1, 2))"))
    kept = {row.block for row in predicted if row.kind == "saved"}
    assert kept == {None, 0, 3}
    assert predict(CONFIG.with_method("offload")).train_flops == predict(CONFIG).train_flops


def test_however_it_is_written_it_is_one_experiment() -> None:
    keys = {
        CONFIG.with_method(text).key(4)
        for text in (f"{BSR}+checkpoint+offload", f"offload+checkpoint+{BSR}", f"checkpoint+{BSR}+offload()")
    }
    assert len(keys) == 1
    assert str(parse_method("offload+checkpoint+full")) == "full+checkpoint+offload"


def test_a_block_out_of_range_is_refused() -> None:
    for refusing in (predict, build):
        with pytest.raises(UserError, match=r"offload\(blocks=…\): block 4 is out of range"):
            refusing(CONFIG.with_method("offload(blocks=(4,))"))
