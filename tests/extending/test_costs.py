"""What a user brings is parsed, predicted and measured like what stands here: to the byte and the FLOP."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.prediction import over_time, predict, trained_blocks

OURS = ("low_rank", "prompt", "side", "thawing", "rotating", "eighth")

EXACT = (
    "low_rank",
    "low_rank(rank=2)+mesa",
    "low_rank+backrazor(faithful=False)",
    "low_rank+drop({1: 0.5})",
    "drop({1: 0.5}, fuse=False)+low_rank+checkpoint",
    "low_rank+offload(blocks=(0, 2))",
    "prompt",
    "prompt(tokens=3)+mesa(faithful=False)",
    "prompt+drop({2: 0.5})",
    "side",
    "side(width=4)",
    "thawing",
    "thawing(share=0.25, k=2)+drop({1: 0.5})",
    "eighth",
    "bitfit+eighth",
    "low_rank+eighth+checkpoint",
)


@pytest.mark.parametrize("name", OURS)
def test_it_is_found_and_its_expression_makes_it_again(name: str) -> None:
    method = parse_method(name)
    assert type(method) is METHODS[name]
    assert parse_method(str(method)) == method
    assert parse_method(str(method.canonical(4))) == method.canonical(4)


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize("method", EXACT)
def test_what_is_predicted_is_measured_operation_by_operation(method: str, precision: str) -> None:
    config = Config("toy", 48, 5, 2, method=method, precision=precision)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)
    assert max(level.bytes for level in over_time(config)) == predict(config).peak_bytes


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("method", ["low_rank+mesa", "prompt", "side"])
def test_attention_and_micro_batches_change_nothing_of_that(method: str, attention: str) -> None:
    config = Config(
        "toy", 48, 5, 4, method=method, attention=attention, micro_batches=2, optimizer="sgd_momentum"
    )
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


@pytest.mark.parametrize(
    "method", ["full", "linear", "bitfit", "blocks(1)", "last(k=2)", "last(k=1)+checkpoint", "full+offload"]
)
def test_methods_that_stand_here_go_with_a_users_architecture(method: str) -> None:
    config = Config("stack_mini", 32, 5, 2, method=method)
    difference = predict(config) - measure(config)
    assert (difference.rows, difference.peak_bytes) == ((), 0)


def test_bytes_of_phases_are_the_fullest_ones_and_flops_their_mean() -> None:
    config = Config("toy", 48, 5, 2, method="thawing(share=0.25, k=2)")
    linear, last = (predict(config.with_method(method)) for method in ("linear", "last(k=2)"))
    whole = predict(config)
    assert (whole.peak_bytes, whole.saved_bytes) == (last.peak_bytes, last.saved_bytes)
    assert whole.train_flops == round(0.25 * linear.train_flops + 0.75 * last.train_flops)
    assert whole.peak_bytes > linear.peak_bytes
    assert trained_blocks(config) == (2, 3)


def test_a_method_that_moves_is_predicted_at_its_fullest() -> None:
    config = Config("toy", 48, 5, 2, method="rotating")
    assert predict(config).peak_bytes >= measure(config).peak_bytes


@pytest.mark.parametrize(
    ("model", "method", "said"),
    [
        (
            "toy",
            "low_rank+bsr",
            "low_rank and bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5}, fuse=True) both choose",
        ),
        ("toy", "low_rank(rank=4)+prompt", "both choose which parameters train"),
        ("toy", "eighth+mesa", "both choose how tensors are stored"),
        ("toy", "thawing(share=1.5)", "it must be above 0 and at most 1"),
        ("toy", "low_rank(rank=0)", "rank must be a whole number"),
        ("toy", "side+drop({1: 0.5})", "which cannot be added; the methods do not go together"),
        ("stack_mini", "mesa", "cannot"),
        ("stack_mini", "drop({1: 0.5})", "the model has none"),
        ("stack_mini", "blocks(3)", "the model has 3 blocks, 0 to 2"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(
    model: str, method: str, said: str
) -> None:
    with pytest.raises(UserError) as refused:
        predict(Config(model, 48, 5, 2, method=method))
    assert said in str(refused.value).replace("low_rank(rank=4)", "low_rank")
