"""The FLOP counters: right by hand, complete, and loud where they are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter

from bsr_explorer.config import Config
from bsr_explorer.finetune.measure import measure
from bsr_explorer.measurement.flops import Uncounted, counter, second_opinion
from bsr_explorer.prediction import predict

aten = torch.ops.aten
FLASH = aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


def _attention(backward: bool = False) -> int:
    """FLOPs of fused attention: 2 images, 3 heads, 5 tokens, 4 wide a head."""
    q, k, v = (torch.randn(2, 3, 5, 4, requires_grad=backward) for _ in range(3))
    with counter() as flops:
        out = F.scaled_dot_product_attention(q, k, v)
        if backward:
            out.sum().backward()
    return int(flops.get_total_flops())


def test_a_product_is_two_flops_a_multiply_add() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with counter() as flops:
        a @ b
    assert flops.get_total_flops() == 2 * 3 * 4 * 5


def test_fused_attention_counts_both_products() -> None:
    assert _attention() == 2 * 3 * (2 * 2 * 5 * 5 * 4)


def test_fused_attention_backward_counts_five() -> None:
    assert _attention(backward=True) == 2 * 3 * ((2 + 5) * 2 * 5 * 5 * 4)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("read", [False, True])
def test_a_grouped_convolution_counts_its_groups_alone_both_ways(groups: int, read: bool) -> None:
    images = torch.randn(2, 6, 5, 4, requires_grad=read)
    weight = torch.randn(6, 6 // groups, 3, 3, requires_grad=True)
    with counter() as flops:
        F.conv2d(images, weight, padding=1, groups=groups).sum().backward()
    assert flops.get_total_flops() == (2 + read) * 2 * 2 * 5 * 4 * 6 * (6 // groups) * 9


def test_a_formula_that_torch_lacks_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _attention(backward=True)
    for op in (FLASH, FLASH_BACKWARD):
        monkeypatch.delitem(flop_counter.flop_registry, op, raising=False)
    assert _attention(backward=True) == before > 0


def test_torchs_own_registry_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(flop_counter.flop_registry, FLASH, raising=False)
    counter()
    assert FLASH not in flop_counter.flop_registry


def _uncounted(layer: nn.Module) -> set[str]:
    flops = counter()
    with Uncounted(flops) as unknown, flops:
        layer(torch.randn(2, 3, requires_grad=True)).sum().backward()
    return set(unknown.names)


def test_nothing_of_a_linear_layer_is_uncounted() -> None:
    assert _uncounted(nn.Linear(3, 4)) == set()


def test_a_product_without_a_formula_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(flop_counter.flop_registry, aten.mm)
    assert _uncounted(nn.Linear(3, 4)) == {"aten.mm"}


def test_what_multiplies_no_matrices_needs_no_formula() -> None:
    assert _uncounted(nn.Sequential(nn.GELU(), nn.LayerNorm(3), nn.Softmax(dim=-1))) == set()


def test_a_second_opinion_is_in_the_same_unit() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.GELU())
    flops, unseen = second_opinion(model, torch.zeros(2, 3))
    assert flops == 2 * 2 * 3 * 4
    assert unseen == {"aten::gelu": 1}


# --- by block ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "method",
    [
        "full",
        "linear",
        "last(k=2)",
        "bsr(blocks=(1, 3), keep={1: 0.5})",
        "checkpoint",
        "offload",
        "lora",
        "mesa",
        "spt",
    ],
)
def test_each_block_computes_what_is_predicted_of_it(method: str) -> None:
    config = Config("toy", 48, 5, 4, method=method, micro_batches=2)
    predicted, measured = (ledger.by_block() for ledger in (predict(config), measure(config)))
    for block in predicted.keys() | measured.keys():
        flops = (found.get(block, {}).get("train_flops", 0) for found in (predicted, measured))
        assert len(set(flops)) == 1, block
