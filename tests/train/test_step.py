"""The training step: micro-batches, number formats, the gradient scaler, and what it leaves behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.models.lowering import PRECISIONS
from bsr_explorer.train.step import Step, autocast, image_dtype, in_precision

pytestmark = pytest.mark.usefixtures("toy")

TOY = Config("toy", image_size=32, batch_size=8, method="bsr(blocks=(0, 2), keep={1: 0.5}, fuse=True)")
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


class Noting(torch.optim.SGD):
    """Notes the gradients that each update finds."""

    def __init__(self, model: nn.Module, lr: float = 0.1) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=lr)
        self.found: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        """See ``torch.optim.SGD``."""
        self.found.append([p.grad.clone() for g in self.param_groups for p in g["params"]])
        return super().step(closure)


class Row(nn.Module):
    """A single row of weights, all zero: a linear classifier of 2 classes whose gradients are plain."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) → (B, 2)."""
        out: Tensor = self.head(x)
        return out


def made(precision: str = "fp32", model: nn.Module | None = None, **options: Any) -> tuple[Step, Noting]:
    """A step, of the toy model if none is given, and its optimiser."""
    model = in_precision(model or build(TOY, seed=1), precision).train()
    optimizer = Noting(model)
    return Step(model, optimizer, precision, **options), optimizer


def weights(step: Step) -> list[Tensor]:
    return [p.detach().clone() for p in step.model.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- one step -------------------------------------------------------------------------------------------


def test_a_step_is_forward_loss_backward_and_update() -> None:
    step, optimizer = made(label_smoothing=0.1)
    before = weights(step)
    loss = F.cross_entropy(step.model(IMAGES), LABELS, label_smoothing=0.1)
    expected = torch.autograd.grad(loss, step.trained)
    assert step(IMAGES, LABELS) == loss.item()
    (found,) = optimizer.found
    assert equal(found, list(expected))
    for p, start in zip(step.model.parameters(), before, strict=True):
        gradient = dict(zip(map(id, step.trained), expected, strict=True)).get(id(p))
        torch.testing.assert_close(p.detach(), start if gradient is None else start - 0.1 * gradient)


def test_what_does_not_train_has_no_gradient() -> None:
    step, _ = made(set_to_none=False)
    step(IMAGES, LABELS)
    assert {p.grad is not None for p in step.trained} == {True}
    assert {p.grad is not None for p in step.model.parameters() if not p.requires_grad} == {False}


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_gradients_are_given_back_or_zeroed_and_kept(set_to_none: bool, micro_batches: int) -> None:
    step, optimizer = made(set_to_none=set_to_none, micro_batches=micro_batches)
    step(IMAGES, LABELS)
    kept = [p.grad for p in step.trained]
    if set_to_none:
        assert kept == [None] * len(step.trained)
    else:
        assert all(gradient is not None and not gradient.any() for gradient in kept)
    step(IMAGES, LABELS)
    assert not equal(*optimizer.found)
    if not set_to_none:  # the same tensors, used again
        assert all(p.grad is gradient for p, gradient in zip(step.trained, kept, strict=True))


def test_keeping_gradients_changes_no_update() -> None:
    steps = [made(set_to_none=set_to_none)[0] for set_to_none in (True, False)]
    for step in steps:
        for _ in range(3):
            step(IMAGES, LABELS)
    assert equal(weights(steps[0]), weights(steps[1]))


@pytest.mark.parametrize("precision", ["fp32", "amp_fp16"])
@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_the_gradient_of_all_micro_batches_is_clipped(clip: float, precision: str) -> None:
    norms = []
    for limit in (None, clip):
        step, optimizer = made(precision, clip=limit, micro_batches=2)
        step(IMAGES, LABELS)
        norms.append(torch.stack([gradient.norm() for gradient in optimizer.found[0]]).norm().item())
    assert 1e-2 < norms[0] < 1e2
    assert norms[1] == pytest.approx(min(norms[0], clip), rel=1e-3)


# --- micro-batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    micro_batches: int, label_smoothing: float
) -> None:
    whole, whole_optimizer = made(label_smoothing=label_smoothing)
    parts, parts_optimizer = made(label_smoothing=label_smoothing, micro_batches=micro_batches)
    assert parts(IMAGES, LABELS) == pytest.approx(whole(IMAGES, LABELS), rel=1e-5)
    for mine, theirs in zip(parts_optimizer.found[0], whole_optimizer.found[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert len(parts_optimizer.found) == 1


@pytest.mark.parametrize(("images", "sizes"), [(5, [2, 1, 1, 1]), (3, [1, 1, 1]), (1, [1])])
def test_a_smaller_batch_falls_into_parts_of_at_least_an_image(images: int, sizes: list[int]) -> None:
    """The only batch of a small set may be smaller than the configuration's."""
    whole, whole_optimizer = made()
    parts, parts_optimizer = made(micro_batches=4)
    batch = IMAGES[:images], LABELS[:images]
    assert [len(labels) for _, labels in parts.parts(*batch)] == sizes
    assert parts(*batch) == pytest.approx(whole(*batch), rel=1e-5)
    for mine, theirs in zip(parts_optimizer.found[0], whole_optimizer.found[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_micro_batches_are_equal_parts_without_a_copy() -> None:
    step, _ = made(micro_batches=4)
    parts = list(step.parts(IMAGES, LABELS))
    assert [len(images) for images, _ in parts] == [2, 2, 2, 2]
    assert torch.equal(torch.cat([labels for _, labels in parts]), LABELS)
    assert {images.untyped_storage().data_ptr() for images, _ in parts} == {
        IMAGES.untyped_storage().data_ptr()
    }


def test_forward_runs_once_a_micro_batch() -> None:
    step, _ = made(micro_batches=4)
    sizes: list[int] = []
    step.model.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    step(IMAGES, LABELS)
    assert sizes == [2, 2, 2, 2]


# --- number formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "weight", "product", "norm"),
    [
        ("fp32", torch.float32, torch.float32, torch.float32),
        ("amp_bf16", torch.float32, torch.bfloat16, torch.float32),
        ("amp_fp16", torch.float32, torch.float16, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_products_run_in_the_precision(
    precision: str, weight: torch.dtype, product: torch.dtype, norm: torch.dtype
) -> None:
    step, optimizer = made(precision)
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> Any:
        return lambda module, args, out: seen.update({name: out.dtype})

    for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.2.mlp.fc1", "head", "norm"):
        step.model.get_submodule(name).register_forward_hook(watch(name))
    step(IMAGES.to(image_dtype(precision)), LABELS)
    assert seen.pop("norm") == norm
    assert set(seen.values()) == {product}
    assert len(seen) == 4
    held = [*step.model.parameters(), *optimizer.found[0]]
    assert {tensor.dtype for tensor in held} == {weight}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_learns_much_the_same(precision: str) -> None:
    losses = []
    for name in ("fp32", precision):
        step, _ = made(name)
        losses.append([step(IMAGES.to(image_dtype(name)), LABELS) for _ in range(6)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1][-1] < losses[1][0]


def test_autocast_is_only_where_the_precision_has_it() -> None:
    entered = {}
    for precision in PRECISIONS:
        with autocast(precision, torch.device("cpu")):
            entered[precision] = (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
    assert {name for name, (enabled, _) in entered.items() if enabled} == {"amp_bf16", "amp_fp16"}
    assert entered["amp_bf16"][1] == torch.bfloat16
    assert entered["amp_fp16"][1] == torch.float16


def test_only_fp16_has_a_scaler() -> None:
    assert {name for name in PRECISIONS if made(name)[0].scaler.is_enabled()} == {"amp_fp16"}


# --- the gradient scaler --------------------------------------------------------------------------------


def row_step(**options: Any) -> tuple[Step, Noting]:
    return made("amp_fp16", Row(), **options)


def row_batch(size: float) -> tuple[Tensor, Tensor]:
    """A batch whose gradient is in proportion to ``size``: at 2^16 times 1000 / 2, beyond fp16."""
    return torch.full((2, 4), size), torch.tensor([0, 0])


def test_scaled_gradients_come_out_in_their_own_size() -> None:
    step, optimizer = row_step()
    assert step(*row_batch(0.5)) == pytest.approx(math.log(2))
    assert not step.skipped
    torch.testing.assert_close(optimizer.found[0][0], torch.tensor([[-0.25] * 4, [0.25] * 4]))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_overflow_skips_the_update_and_says_so(clip: float | None) -> None:
    step, optimizer = row_step(clip=clip)
    loss = step(*row_batch(1000.0))
    assert loss == pytest.approx(math.log(2))
    assert step.skipped
    assert optimizer.found == []
    assert not step.model.head.weight.any()  # type: ignore[union-attr, operator]
    assert step.model.head.weight.grad is None  # type: ignore[union-attr]


def test_after_an_overflow_smaller_gradients_are_used_again() -> None:
    step, optimizer = row_step()
    skipped = []
    for _ in range(12):
        step(*row_batch(1000.0))
        skipped.append(step.skipped)
        if not step.skipped:
            break
    assert skipped[0]
    assert skipped == [True] * (len(skipped) - 1) + [False]
    torch.testing.assert_close(optimizer.found[0][0], torch.tensor([[-500.0] * 4, [500.0] * 4]))
    assert step.model.head.weight.any()  # type: ignore[union-attr, operator]


def test_one_overflowing_micro_batch_skips_the_whole_update() -> None:
    step, optimizer = row_step(micro_batches=2)
    images = torch.cat([row_batch(0.5)[0], row_batch(10_000.0)[0]])
    step(images, torch.zeros(4, dtype=torch.int64))
    assert step.skipped
    assert optimizer.found == []
    step(*row_batch(0.5))
    assert not step.skipped
    torch.testing.assert_close(optimizer.found[0][0], torch.tensor([[-0.25] * 4, [0.25] * 4]))


# --- a loss that is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("micro_batches", "place"), [(1, 0), (2, 0), (2, 7)])
@pytest.mark.parametrize("precision", ["fp32", "amp_fp16"])
def test_a_loss_that_is_not_finite_is_returned_and_updates_nothing(
    bad: float, micro_batches: int, place: int, precision: str
) -> None:
    step, optimizer = made(precision, micro_batches=micro_batches)
    before, images = weights(step), IMAGES.clone()
    images[place] = bad
    assert not math.isfinite(step(images, LABELS))
    assert optimizer.found == []
    assert equal(weights(step), before)
