"""Attention, fused and explicit: what it keeps, by kernel, number format, images and heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bsr_explorer.cost.step import Recorded, activation_rows, saved
from bsr_explorer.ledger import ledger
from bsr_explorer.tape import Op, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""

B, H, N, D = 2, 3, 5, 12


def _attention(path: str, batch: int = B, heads: int = H, dtype: str = "fp32", softmax: str = "") -> Tape:
    attrs = {"path": path, "heads": heads, **({"softmax": softmax} if softmax else {})}
    qkv = Tensor("qkv", (batch, N, 3 * D), "qkv", dtype)
    return Tape((qkv,), {}, (Op("attn", "attention", 0, ("qkv",), "y", attrs=attrs),))


def _kept(tape: Tape) -> dict[str, int]:
    return {name.removeprefix("attn:"): size for _, _, name, size in saved(tape, live_inputs=True)}


n = B * N * D * 4


def test_a_fused_kernel_keeps_qkv_its_output_and_a_number_a_row() -> None:
    assert _kept(_attention("fused")) == {"qkv": 3 * n, "y": n, "logsumexp": B * H * N * 4}


def test_flash_in_16_bits_keeps_its_rows_in_32() -> None:
    assert _kept(_attention("flash", dtype="bf16")) == {
        "qkv": 3 * n // 2,
        "y": n // 2,
        "logsumexp": B * H * N * 4,
        "seed": 8,
        "offset": 8,
    }


def test_the_memory_efficient_kernel_pads_rows_to_32() -> None:
    assert _kept(_attention("efficient"))["logsumexp"] == B * H * 32 * 4


def test_explicit_attention_keeps_copies_and_the_softmax() -> None:
    scores = B * H * N * N * 4
    assert _kept(_attention("math")) == {"query": n, "key": n, "value": n, "softmax": scores}


@pytest.mark.parametrize(("batch", "heads"), [(1, H), (B, 1)])
def test_with_one_image_or_one_head_keys_and_values_are_views(batch: int, heads: int) -> None:
    size = batch * N * D * 4
    assert _kept(_attention("math", batch, heads)) == {
        "query": size,
        "qkv": 3 * size,
        "softmax": batch * heads * N * N * 4,
    }


def test_a_wide_softmax_of_narrow_scores_is_kept_beside_its_cast() -> None:
    kept = _kept(_attention("math", dtype="bf16", softmax="fp32"))
    assert (kept["softmax"], kept["probabilities"]) == (B * H * N * N * 4, B * H * N * N * 2)


@pytest.mark.parametrize("path", ["fused", "math", "flash", "efficient"])
@pytest.mark.parametrize("heads", [1, H])
@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize(("dtype", "softmax"), [("fp32", ""), ("bf16", ""), ("bf16", "fp32")])
def test_all_that_attention_made_is_freed_but_qkvs_gradient(
    passes: Passes, path: str, heads: int, batch: int, dtype: str, softmax: str
) -> None:
    forward, backward = passes(_attention(path, batch, heads, dtype, softmax))
    left: Counter[str] = Counter()
    for name, change in forward + backward:
        left[name] += change
    width = 4 if dtype == "fp32" else 2
    size = batch * N * D * width
    assert sorted((+left).values()) == [size, 3 * size]
    assert (+left)["y"] == size  # the caller's
    assert -left == {"qkv": 3 * size, "gradient from above": size}


def test_without_a_graph_only_the_output_is_left(passes: Passes) -> None:
    for path in ("fused", "math"):
        forward, _ = passes(_attention(path), live=False)
        assert sum(change for _, change in forward) == n - 3 * n  # qkv is let go


@pytest.mark.parametrize(("path", "backward"), [("fused", 5), ("math", 4)])
def test_both_products_forward_and_more_backward(path: str, backward: int) -> None:
    product = 2 * B * N * N * D
    step = ledger(activation_rows(Recorded.of(_attention(path), live_inputs=True)))
    assert (step.forward_flops, step.flops_of("backward")) == (2 * product, backward * product)
