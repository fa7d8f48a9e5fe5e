"""Mixtures by name, and their steps to the byte."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import ARCHITECTURES, architecture_of, geometry
from bsr_explorer.models.moe.architecture import Numbers, numbers_of
from bsr_explorer.naming import blocks_of
from bsr_explorer.prediction import note_of, predict, tokens_by_block

pytestmark = pytest.mark.usefixtures("toy")

SMALL = "moe_vit(toy, blocks=(1, 3), experts=4, top=2{})"


def test_a_name_is_known_by_what_stands_before_its_parentheses() -> None:
    for model in ("moe_vit", "moe_vit(deit_s)", SMALL.format("")):
        assert architecture_of(model) is ARCHITECTURES["moe"]
    assert architecture_of("deit_s") is ARCHITECTURES["vit"]


def test_what_is_left_out_is_as_in_the_paper_s_code() -> None:
    assert numbers_of("moe_vit(vit_b)") == Numbers(
        "vit_base_patch16_224", (3, 7, 11), 16, 4, 1.0, None, 0.01, True
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("moe_vit(deit_t, experts=2)", r"top=4 of 2 experts; choose top up to 2"),
        (
            "moe_vit(deit_t, capacity=0.01)",
            "an expert takes 0.49 of the 197 tokens of an image; choose at least 0.02",
        ),
        ("moe_vit(deit_t, capacity=0)", "capacity=0 must be a number above 0"),
        ("moe_vit(deit_t, blocks=(3, 12))", "has no block 12; choose blocks from 0 to 11"),
        ("moe_vit(deit_t, blocks=())", "must name blocks"),
        ("moe_vit(deit_t, noise=1)", "must be True or False"),
        ("moe_vit(deit_t, expert=4)", "did you mean 'experts'"),
        ("moe_vit(resnet18)", "moe_vit"),
        ("moe_vit(deit_x)", "deit_x"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(model: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        predict(Config(model, method="full"))
    assert "\n" not in str(refused.value) and str(refused.value).startswith("--model:")


def test_blocks_are_those_of_the_dense_model() -> None:
    model = SMALL.format("")
    assert geometry(model, 48, 10).depth == 4
    built = build(Config(model, 48, 10, 2, method="last(k=1)"))
    assert len(blocks_of(built)) == 4
    assert {name for name, p in built.named_parameters() if p.requires_grad and "mlp" in name} == {
        f"blocks.3.mlp.{part}"
        for part in (
            *("gate.route.weight", "gate.noise.weight"),
            *("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
        )
    }


@pytest.mark.parametrize("method", ["full", "last(k=1)", "linear", "bitfit", "lora", "full+checkpoint"])
@pytest.mark.parametrize(
    "options", ["", ", capacity=1.25", ", capacity=0.3, noise=False, balance=0, ratio=4"]
)
def test_a_step_is_as_predicted_to_the_byte(options: str, method: str) -> None:
    config = Config(SMALL.format(options), 48, 10, 3, method=method)
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops
    assert predicted.held_bytes == measured.held_bytes
    assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_so_it_is_in_16_bits(precision: str) -> None:
    config = Config(SMALL.format(""), 48, 10, 3, precision=precision, method="full")
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "all rows of 2 for each token"),
        (", capacity=1.25", "7 rows each for an image of 10 tokens, filled or not"),
    ],
)
def test_what_experts_compute_is_said(options: str, said: str) -> None:
    note = note_of(Config(SMALL.format(options), 48, method="full"))
    assert note == f"4 experts in blocks 1, 3 compute {said}: exact for every routing"
    assert note_of(Config("toy", 48, method="full")) == ""


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ("", "bsr(blocks=(1, 3), keep={0: 0.5, 2: 0.5}, fuse=True)"),
        (", capacity=1.25", "bsr(blocks=(3,), keep={1: 0.5}, fuse=False)"),
        (", capacity=0.5", "full+drop({3: 0.5}, fuse=True)"),
        (", capacity=1.25, noise=False", "full+evit(0.5)+checkpoint"),
        ("", "lora+evit(0.5)"),
    ],
)
def test_experts_take_rows_of_the_tokens_that_are_left(options: str, method: str) -> None:
    for precision in ("fp32", "bf16", "amp_bf16"):
        if precision == "amp_bf16" and "lora" in method:
            continue
        config = Config(SMALL.format(options), 48, 10, 3, precision=precision, method=method, optimizer="sgd")
        predicted, measured = predict(config), measure(config)
        assert predicted.saved_bytes == measured.saved_bytes
        assert predicted.train_flops == measured.train_flops
        assert predicted.held_bytes == measured.held_bytes
        assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes


def test_rows_are_said_of_the_tokens_that_are_left() -> None:
    config = Config(SMALL.format(", capacity=1.25"), 48, method="full+drop({2: 0.5}, fuse=True)")
    note = note_of(config)
    assert "7, 5 rows each for an image of 10, 7 tokens" in note
    assert tokens_by_block(config) == {0: (10, 10), 1: (10, 10), 2: (10, 7), 3: (7, 7)}


def test_what_is_dropped_may_be_followed() -> None:
    config = Config(SMALL.format(""), 48, 10, 2, method="bsr(blocks=(3,), keep={1: 0.5}, fuse=False)")
    model = build(config)
    architecture = ARCHITECTURES["moe"]
    (found,) = architecture.follow_tokens(model, torch.randn(2, 3, 48, 48))
    assert found.block == 1 and (found.places >= 0).sum(1).tolist() == [5, 5]
    model.eval()
    with torch.no_grad(), architecture.all_tokens(model):
        assert model.forward_features(torch.randn(1, 3, 48, 48)).shape[1] == 10
