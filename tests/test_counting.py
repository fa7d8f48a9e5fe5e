"""FLOPs of single operations of torch."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.counting import flops_of, is_uncounted

aten = torch.ops.aten


def test_products_count_two_a_multiply_add() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    assert flops_of(aten.mm.default, (a, b), {}, a @ b) == 2 * 2 * 3 * 5


def test_fused_attention_on_the_cpu_is_counted_by_every_torch() -> None:
    q = torch.zeros(1, 2, 4, 8)
    result = aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
    counted = flops_of(aten._scaled_dot_product_flash_attention_for_cpu.default, (q, q, q), {}, result)
    assert counted == 2 * 2 * 2 * 4 * 4 * 8


@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_gradients_of_a_convolution_take_what_it_takes_each(transposed: bool, groups: int) -> None:
    x, weight = torch.zeros(3, 4, 6, 6), torch.zeros(4, 4 // groups, 2, 2)
    how = [2, 2], [0, 0], [1, 1], transposed, [0, 0], groups
    out = aten.convolution(x, weight, None, *how)
    forward = flops_of(aten.convolution.default, (x, weight, None, *how), {}, out)
    points = 6 * 6 if transposed else 3 * 3
    assert forward == 2 * 3 * points * weight.numel()
    for mask in ([True, False, False], [True, True, False]):
        given = (torch.zeros_like(out), x, weight, None, *how, mask)
        result = aten.convolution_backward(*given)
        assert flops_of(aten.convolution_backward.default, given, {}, result) == sum(mask) * forward


def test_sums_are_no_products() -> None:
    x = torch.zeros(2)
    assert flops_of(aten.add.Tensor, (x, x), {}, x) == 0


def test_products_without_a_formula_are_an_error() -> None:
    assert is_uncounted(aten.mkldnn_rnn_layer)
    with pytest.raises(LookupError, match="mkldnn_rnn_layer"):
        flops_of(aten.mkldnn_rnn_layer.default, (), {}, None)
