"""Language models by name, and their steps to the byte."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of, geometry
from bsr_explorer.models.language.architecture import shape_of
from bsr_explorer.prediction import predict, size_of

SMALL = "llama_tiny(width=32, depth=2, hidden=48, vocabulary=500{})"


def test_a_name_is_known_by_what_stands_before_its_parentheses() -> None:
    for model in ("tinyllama", "llama_tiny", SMALL.format("")):
        assert architecture_of(model) is ARCHITECTURES["language"]


def test_tinyllama_has_its_geometry() -> None:
    numbers = shape_of("tinyllama")
    assert (numbers.width, numbers.depth, numbers.heads, numbers.groups) == (2048, 22, 32, 4)
    assert shape_of("tinyllama(chunk=512)").chunk == 512


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("llama_tiny(3)", "3 is no name"),
        ("llama_tiny(deit_s)", "write options as name=value"),
        ("llama_tiny(heads=3)", "width=128 does not fall into heads=3"),
        ("llama_tiny(groups=3)", "heads=4 do not fall into groups=3"),
        ("llama_tiny(chunk=0)", "chunk=0 must be a whole number"),
        ("llama_tiny(layers=3)", "unknown value 'layers'"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(model: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        geometry(model, 16)


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(UserError, match="--sequence-length: 600 tokens are more than the 512 positions"):
        predict(Config("llama_tiny", 600, method="full"))


@pytest.mark.parametrize("method", ["drop(keep={1: 0.5}, criterion='norm')", "full+tome(r=1)"])
def test_tokens_of_a_causal_model_are_not_dropped(method: str) -> None:
    with pytest.raises(UserError, match="--method: a language model is causal"):
        predict(Config(SMALL.format(""), 16, 10, 2, method=method))


@pytest.mark.parametrize("method", ["full", "last(k=1)", "linear", "bitfit", "lora", "full+checkpoint"])
@pytest.mark.parametrize("options", ["", ", chunk=20", ", groups=4"])
def test_a_step_is_as_predicted_to_the_byte(options: str, method: str) -> None:
    config = Config(SMALL.format(options), 24, 10, 3, method=method)
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops
    assert predicted.held_bytes == measured.held_bytes
    assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes
    assert {row.operation for row in predicted.rows if row.kind == "input"} == {"tokens", "labels"}


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_so_it_is_in_16_bits(precision: str) -> None:
    config = Config(
        SMALL.format(", chunk=20"), 24, 10, 3, precision=precision, method="full", attention="math"
    )
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops


def test_in_chunks_the_peak_is_less() -> None:
    whole, parts = (
        predict(Config(SMALL.format(each), 64, 10, 8, method="linear")) for each in ("", ", chunk=32")
    )
    assert parts.peak_bytes < 0.6 * whole.peak_bytes


def test_its_size_is_said_in_tokens() -> None:
    assert size_of(Config("llama_tiny", 128)) == "128 tokens"
    assert size_of(Config("deit_t", 128)) == "128 px"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp_bf16"])
@pytest.mark.parametrize(
    "method",
    [
        "lora",
        "full+velora",
        "last(k=1)+wtacrs",
        "full+asi",
        "full+wasi(on=('qkv', 'fc2'))",
        "full+mesa(ema=0)",
        "last(k=1)+backrazor",
    ],
)
def test_what_calls_keep_is_packed_and_updates_stand_beside_layers(method: str, precision: str) -> None:
    config = Config("llama_tiny(depth=2)", 16, 10, 4, method=method, optimizer="sgd", precision=precision)
    predicted, measured = predict(config), measure(config)
    for figure in ("saved_bytes", "train_flops", "peak_bytes"):
        assert getattr(predicted, figure) == getattr(measured, figure), figure


def test_factors_need_keys_and_values_as_wide_as_queries() -> None:
    config = Config("llama_tiny(depth=2)", 16, 10, 4, method="ia3")
    for ask in (predict, build):
        with pytest.raises(UserError, match=r"ia3 .* makes 256 channels of 128, .* choose lora"):
            ask(config)
