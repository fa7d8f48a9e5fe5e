"""Decoders of Hugging Face's ``transformers``: predicted to the byte, and refused by name."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.prediction import predict

pytest.importorskip("transformers")

LLAMA = "hf_llama(width=32, depth=2, heads=2, groups=1, hidden=48)"
GPT2 = "hf_gpt2(width=32, depth=2, heads=2, groups=2, hidden=64)"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "last(k=1)", "linear"])
@pytest.mark.parametrize("model", [LLAMA, GPT2])
def test_a_step_is_predicted_to_the_byte(model: str, method: str, precision: str) -> None:
    config = Config(model, 16, 1, 4, method=method, precision=precision)
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.forward_flops == measured.forward_flops
    assert predicted.train_flops == measured.train_flops
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.001)


def test_blocks_of_gpt2_are_checkpointed() -> None:
    config = Config(GPT2, 16, 1, 4, method="full+checkpoint")
    assert predict(config).saved_bytes == measure(config).saved_bytes


def test_it_is_trained_on_text() -> None:
    record = fine_tune(
        Config(LLAMA, 16, 1, 8, method="full"),
        "text",
        Fidelity(train_size=16, val_size=8, epochs=1),
        "random",
    )
    assert record.status == "finished" and record.perplexity is not None and record.measured is not None
    assert record.measured["peak_bytes"] == record.measured["predicted_peak_bytes"]


@pytest.mark.parametrize(
    ("model", "method", "why"),
    [
        (LLAMA, "lora", "--method: lora.* needs the layer attn.qkv of each block"),
        (LLAMA, "full+checkpoint", "--method: checkpoint does not go with hf_llama.*by name"),
        (LLAMA, "evit", "--method: a language model is causal.*evit"),
        ("hf_llama(chunk=8)", "full", "--model: .*leave chunk out"),
        ("hf_gpt2(groups=2)", "full", "--model: .*GPT-2 has as many keys as queries"),
    ],
)
def test_what_is_refused_says_why(model: str, method: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        predict(Config(model, 16, 1, 4, method=method))
