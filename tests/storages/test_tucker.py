"""Tucker decompositions: the gradient is that of what they stand for, and they converge to the best bases."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from bsr_explorer.devices import CPU
from bsr_explorer.storages import Tucker
from bsr_explorer.storages.functions import Linear
from bsr_explorer.storages.keeper import Keeper
from bsr_explorer.storages.tucker import Ranks

SHAPE = (4, 7, 12)
FULL = (1.0, 1.0, 1.0)


def operands(out: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (4, 7, 12), weight and the gradient of the output."""
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(SHAPE, generator=generator), torch.randn(out, 12, generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), torch.randn(4, 7, out, generator=generator)


def hosvd(x: torch.Tensor, ranks: tuple[int, ...]) -> list[torch.Tensor]:
    """The projections on the first singular vectors of each unfolding."""
    found = []
    for mode, rank in enumerate(ranks):
        u, _, _ = torch.linalg.svd(x.movedim(mode, 0).flatten(1), full_matrices=False)
        found.append(u[:, :rank] @ u[:, :rank].T)
    return found


@pytest.mark.parametrize("ranks", [(2, 3, 4), (1, 1, 1), (0.5, 0.5, 0.25), FULL])
def test_the_weights_gradient_is_that_of_the_reconstruction(ranks: Ranks) -> None:
    x, weight, gradient = operands()
    kept = Keeper(Tucker(ranks)).keep(x)
    again = kept.restore(kept.tensors)
    out = Linear.apply(x, weight, None, kept)
    assert torch.equal(out, torch.nn.functional.linear(x, weight))
    of_x, of_weight = torch.autograd.grad((out * gradient).sum(), (x, weight))
    expected = gradient.flatten(0, 1).T @ again.flatten(0, 1)
    assert (of_weight - expected).norm() / expected.norm() < 1e-6
    torch.testing.assert_close(of_x, gradient @ weight)


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 8), (2, 3, 20), (2, 10, 32)])
def test_with_all_ranks_it_is_exact_after_a_step_or_two(shape: tuple[int, ...]) -> None:
    """Where there are more channels than images times tokens, as many of them are all, and a first step depends on
    what was drawn: one turn squares how badly the start is conditioned."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for seed in range(50):
        torch.manual_seed(seed)
        keeper, errors = Keeper(Tucker(FULL)), []
        for _ in range(4):
            kept = keeper.keep(x)
            errors.append(float((kept.restore(kept.tensors) - x).norm() / x.norm()))
        assert errors[0] < 1e-2
        assert max(errors[2:]) < 1e-6


def test_it_converges_to_the_first_singular_vectors_of_a_tensor_that_stays() -> None:
    """From whatever is drawn, though it may take long: the gap is a tenth."""
    generator, ranks = torch.Generator().manual_seed(2), (2, 3, 4)
    x = torch.randn(SHAPE, generator=generator)
    for size, mode in zip(SHAPE, range(3), strict=True):
        falling = (0.6 ** torch.arange(size)).view([-1 if d == mode else 1 for d in range(3)])
        x = x * falling
    expected = hosvd(x, ranks)
    for seed in (*range(20), 95, 133):  # the last two begin almost at right angles to what is sought
        torch.manual_seed(seed)
        keeper, errors = Keeper(Tucker(ranks)), []
        for _ in range(150):
            _, *bases = keeper.keep(x).tensors
            errors.append(
                max(float((u @ u.T - best).norm()) for u, best in zip(bases, expected, strict=True))
            )
        assert errors[0] > 1e-2
        assert errors[-1] < 1e-5


def test_each_step_turns_the_bases_of_the_step_before_once() -> None:
    """U ← Q of A·(Aᵀ·U)."""
    x, _, _ = operands()
    x, other = x.detach(), torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    keeper = Keeper(Tucker((2, 3, 4)))
    _, *before = (t.clone() for t in keeper.keep(x).tensors)
    core, *after = keeper.keep(other).tensors
    for mode, (old, new) in enumerate(zip(before, after, strict=True)):
        unfolded = other.movedim(mode, 0).flatten(1)
        turned = torch.linalg.qr(unfolded @ (unfolded.T @ old)).Q
        torch.testing.assert_close(new @ new.T, turned @ turned.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(core, torch.einsum("bni,ba,nc,id->acd", other, *after))
    assert keeper.running is not None
    assert torch.equal(keeper.running, torch.cat([u.flatten() for u in after]))


def test_a_batch_of_another_size_leaves_what_is_remembered_alone() -> None:
    x = operands()[0].detach()
    keeper = Keeper(Tucker((4, 3, 4)))
    keeper.keep(x)
    assert keeper.running is not None
    before = keeper.running.clone()
    core, images, _, _ = keeper.keep(x[:3]).tensors
    assert (core.shape, images.shape) == ((3, 3, 4), (3, 3))
    assert torch.equal(keeper.running, before)


def test_what_is_remembered_comes_into_being_with_the_first_batch_and_is_saved() -> None:
    x = operands()[0].detach()
    keeper, other = Keeper(Tucker((2, 3, 4))), Keeper(Tucker((2, 3, 4)))
    assert keeper.running is not None
    assert tuple(keeper.running.shape) == Tucker((2, 3, 4)).remembers == (0,)
    keeper.keep(x)
    assert tuple(keeper.running.shape) == Tucker((2, 3, 4)).remembers_of(SHAPE) == (4 * 2 + 7 * 3 + 12 * 4,)
    other.load_state_dict(keeper.state_dict())
    for mine, theirs in zip(keeper.keep(x).tensors, other.keep(x).tensors, strict=True):
        assert torch.equal(mine, theirs)


def test_in_evaluation_nothing_is_remembered() -> None:
    x = operands()[0].detach()
    keeper = Keeper(Tucker((2, 3, 4))).eval()
    assert len(keeper.keep(x).tensors) == 4
    assert keeper.running is not None
    assert not keeper.running.numel()


def test_what_is_packed_does_not_follow_bases_that_change_later() -> None:
    x = operands()[0].detach()
    keeper = Keeper(Tucker((2, 3, 4)))
    kept = keeper.keep(x)
    before = kept.restore(kept.tensors)
    assert keeper.running is not None
    keeper.running.zero_()
    assert torch.equal(kept.restore(kept.tensors), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_numbers_do_not_overflow_in_16_bits(dtype: torch.dtype) -> None:
    """Squares of these have no place in fp16."""
    x = (300 * torch.randn(4, 30, 64, generator=torch.Generator().manual_seed(3))).to(dtype)
    packing = Tucker((1.0, 1.0, 1.0))
    again = packing.unpack(packing.pack(x), tuple(x.shape), dtype).float()
    assert (again - x.float()).norm() < 0.05 * x.float().norm()


def test_of_zeros_and_of_nothing_but_one_there_are_bases() -> None:
    assert all(t.isfinite().all() for t in Tucker((2, 3, 4)).pack(torch.zeros(SHAPE)))
    assert all(t.isfinite().all() for t in Tucker(FULL).pack(torch.ones(1, 1, 1)))


def test_ranks_are_no_more_than_there_are_and_than_a_core_can_use() -> None:
    assert Tucker((0.5, 0.5, 0.25)).found((4, 7, 12)) == (2, 4, 3)
    assert Tucker((0.01, 0.01, 0.01)).found((4, 7, 12)) == (1, 1, 1)
    assert Tucker((8, 8, 8)).found((4, 7, 12)) == (4, 7, 8)
    assert Tucker((1, 2, 12)).found((4, 7, 12)) == (1, 2, 2)
    assert Tucker((4, 1, 2)).found((4, 7, 12)) == (2, 1, 2)
    assert Tucker(FULL).found((1, 3, 8)) == (1, 3, 3)


def test_products_cost_what_is_said() -> None:
    packing, (images, tokens, channels) = Tucker((2, 3, 4)), (2, 3, 4)
    turning = 2 * 2 * 4 * 7 * 12 * (images + tokens + channels)
    core = 2 * (4 * 7 * 12 * channels + 4 * 7 * tokens * channels + 4 * images * tokens * channels)
    assert packing.pack_flops(SHAPE) == turning + core
    made = 4 * 7 * 5 * tokens + 4 * images * tokens * 5 + images * tokens * 5 * channels + 5 * channels * 12
    assert packing.gradient_flops(SHAPE, 5) == 2 * made
    assert packing.bytes(SHAPE, "bf16") == 2 * (2 * 3 * 4 + 4 * 2 + 7 * 3 + 12 * 4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_all_that_packing_takes_is_given_back(dtype: str) -> None:
    course = Tucker((2, 3, 4)).pack_course(SHAPE, dtype, CPU)
    assert sum(course) == 0
    assert min(accumulate(course)) >= 0
    for place, change in enumerate(course):
        assert change > 0 or -change in course[:place]
