"""Drops by a learned score: what is written, what trains, what it costs, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Adapler, Full, parse_method
from bsr_explorer.prediction import predict, tape_of, tokens_by_block
from tests.methods.interrupted import check_it_goes_on

WITHOUT = "vit_wee_patch16_reg1_gap_256"  # mean pooling, a register, no class token


def test_it_is_written_as_it_is_read() -> None:
    assert str(Adapler()) == "adapler(0.7)"
    assert parse_method("adapler(0.5)") == Adapler(0.5)
    assert Adapler(1.0).canonical(12) == Full()
    assert Adapler(1.0).at_inference is None


@pytest.mark.parametrize("keep", ["0", "1.5", "True", "'half'"])
def test_other_rates_are_refused(keep: str) -> None:
    with pytest.raises(UserError, match=r"adapler\(keep=.*a keep rate must be above 0 and at most 1"):
        parse_method(f"adapler({keep})")


def test_keeping_all_is_exact() -> None:
    config = Config("deit_t", 64, 10, 2, method="full+adapler(1.0)")
    assert tape_of(config).ops == tape_of(config.with_method("full")).ops


def test_scorers_train_whatever_else_does_and_stand_in_the_models_order() -> None:
    config = Config("deit_t", 64, 10, 2, method="linear+adapler")
    model = build(config)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    scorers = [f"blocks.{block}.drop.scorer.{part}" for block in (3, 6, 9) for part in ("weight", "bias")]
    assert trained == [*scorers, "head.weight", "head.bias"]
    assert [name for name, p in tape_of(config).parameters.items() if p.trains] == trained
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    weights = [p for name, p in model.named_parameters() if name.endswith("scorer.weight")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)


def test_it_drops_as_many_as_evit_by_scores_of_its_own() -> None:
    config = Config("deit_t", 64, 10, 2, method="full+adapler")
    evit = config.with_method("full+evit")
    assert tokens_by_block(config) == tokens_by_block(evit)
    assert predict(config).saved_bytes < predict(config.with_method("full")).saved_bytes
    images = torch.randn(2, 3, 64, 64)
    one, other = build(config, seed=1).eval(), build(config, seed=1).eval()
    with torch.no_grad():
        other.blocks[3].drop.scorer.weight.neg_()  # type: ignore[union-attr,index]
        assert not torch.equal(one(images), other(images))


@pytest.mark.thorough  # models of their full depth
@pytest.mark.parametrize("model", ["deit_t", WITHOUT])
@pytest.mark.parametrize(
    ("attention", "precision"),
    [("fused", "fp32"), ("math", "amp_bf16"), ("fused", "amp_fp16"), ("math", "bf16")],
)
def test_what_is_predicted_is_measured(model: str, attention: str, precision: str) -> None:
    batch = 1 + (attention == "fused")
    for method in (
        "last(k=6)+adapler",
        "full+adapler(0.3)+checkpoint(blocks=(0, 3, 7))",
        "bitfit+adapler+mesa",
    ):
        config = Config(model, 64, 10, batch, attention=attention, precision=precision, method=method)
        difference = predict(config) - measure(config)
        assert difference.rows == ()
        assert abs(difference.peak_bytes) <= ("mesa" in method) * 1e-3 * predict(config).peak_bytes


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("more", ["", "+checkpoint"])
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(more: str, tmp_path: Path) -> None:
    check_it_goes_on(f"last(k=3)+adapler(0.5){more}", tmp_path, epochs=2, after=(1, 7))
