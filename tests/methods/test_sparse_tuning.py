"""Sparse-Tuning: its arguments, what is refused, what it costs, and that it begins as the frozen model with drops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import SparseTuning, parse_method
from bsr_explorer.prediction import predict, tokens_by_block
from tests.methods.interrupted import check_it_goes_on


def test_it_is_written_as_it_is_read() -> None:
    assert str(SparseTuning()) == "sparse_tuning(keep=0.7, width=64)"
    assert parse_method("sparse_tuning(keep=1, width=8)") == SparseTuning(1.0, 8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sparse_tuning(keep=0)", r"sparse_tuning\(keep=0\): a keep rate must be above 0 and at most 1"),
        ("sparse_tuning(width=1)", "width must be a whole number of at least 2"),
        ("sparse_tuning(width=7)", "width must be even"),
        ("sparse_tuning+drop", "both choose which tokens stay"),
        ("sparse_tuning+lora", "both choose which parameters train"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


@pytest.mark.parametrize("ask", [predict, build])
def test_drops_need_a_class_token(ask: object) -> None:
    config = Config("vit_wee_patch16_reg1_gap_256", 64, method="sparse_tuning")
    with pytest.raises(UserError, match=r"the model has none; keep all \(keep=1.0\), or take adapter"):
        ask(config)  # type: ignore[operator]


def test_it_begins_as_the_frozen_model_with_drops() -> None:
    config = Config("deit_t", 64, 10, 2, method="sparse_tuning(width=8)")
    images = torch.randn(3, 3, 64, 64)
    tuned, dropping = (build(each, seed=1) for each in (config, config.with_method("linear+evit(0.7)")))
    tuned.load_state_dict(dropping.state_dict(), strict=False)
    assert torch.equal(tuned(images), dropping(images))
    assert tokens_by_block(config) == tokens_by_block(config.with_method("linear+evit(0.7)"))


def test_it_takes_the_share_of_flops_that_the_paper_says() -> None:
    full = Config("vit_b", 224, 100, 1, method="full")
    share = predict(full.with_method("sparse_tuning")).forward_flops / predict(full).forward_flops
    assert 0.62 < share < 0.70


def test_adapters_are_as_large_as_the_authors() -> None:
    full = Config("vit_b", 224, 100, 1, method="full")
    own = predict(full.with_method("sparse_tuning")).parameter_bytes - predict(full).parameter_bytes
    layers = ((768, 64), (64, 32), (96, 64), (32, 64), (64, 768))
    assert own == 12 * 4 * sum(width * out + out for width, out in layers)


@pytest.mark.thorough  # models of their full depth
@pytest.mark.parametrize(
    ("attention", "precision"),
    [("fused", "fp32"), ("math", "amp_bf16"), ("fused", "amp_fp16"), ("math", "bf16")],
)
@pytest.mark.parametrize("more", ["", "+checkpoint", "+checkpoint(blocks=(0, 4, 5, 11))+offload"])
def test_what_is_predicted_is_measured_of_12_blocks(more: str, precision: str, attention: str) -> None:
    config = Config(
        "deit_t", 48, 5, 2, precision=precision, attention=attention, method=f"sparse_tuning(width=4){more}"
    )
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("more", ["", "+checkpoint"])
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(more: str, tmp_path: Path) -> None:
    check_it_goes_on(f"sparse_tuning(width=4){more}", tmp_path, epochs=2, after=(1, 7))
