"""What surgery does to a real model: names stay, the drop sits between the branches, nothing is left over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.methods.applied.checkpoint import checkpoint_block
from bsr_explorer.models.base import CRITERIA, Selection
from bsr_explorer.models.vit import tokens
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.models.vit.drop import TokenDrop, drop_tokens_in


def _vit(image_size: int = 32, depth: int = 2, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=image_size, patch_size=8, embed_dim=12, depth=depth, num_heads=3, num_classes=3, **options
    ).eval()


def test_names_in_the_state_dict_do_not_change() -> None:
    model = _vit()
    before = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parameters = [name for name, _ in model.named_parameters()]
    drop_tokens_in(model, 1, Selection(0.5, True, True))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == before
    assert [name for name, _ in model.named_parameters()] == parameters


def test_weights_can_be_loaded_before_or_after() -> None:
    plain, dropping = _vit(), _vit()
    drop_tokens_in(dropping, 0, Selection(0.5, True, True))
    dropping.load_state_dict(plain.state_dict())
    drop_tokens_in(plain, 0, Selection(0.5, True, True))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), dropping(images))


def test_a_rate_that_keeps_everything_changes_no_output() -> None:
    plain, dropping = _vit(), _vit()
    drop_tokens_in(dropping, 0, Selection(0.99, True, False))  # ceil(0.99 · 16) = 16
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), dropping(images))


@pytest.mark.parametrize("registers", [0, 2])
def test_tokens_drop_after_attention_and_before_the_second_norm(registers: int) -> None:
    model = _vit(depth=1, init_values=0.5, reg_tokens=registers)
    block, x = model.blocks[0], torch.randn(2, 1 + registers + 16, 12)
    qkv = block.attn.qkv(block.norm1(x))
    scores = tokens.class_attention(qkv, heads=3, prefix=1 + registers)
    middle = x + block.ls1(block.attn(block.norm1(x)))
    middle = tokens.drop_tokens(middle, scores, 0.5, 1 + registers, fuse=True)
    expected = middle + block.ls2(block.mlp(block.norm2(middle)))
    drop_tokens_in(model, 0, Selection(0.5, True, True))
    assert torch.equal(model.blocks[0](x), expected)


@pytest.mark.parametrize(("fuse", "counts"), [(True, [197, 100, 52, 28]), (False, [197, 99, 50, 26])])
def test_a_model_of_196_patches_halves_them(fuse: bool, counts: list[int]) -> None:
    model = _vit(image_size=112, depth=10)  # 14 · 14 patches
    for block in (3, 6, 9):
        drop_tokens_in(model, block, Selection(0.5, fuse, fuse))
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    model(torch.zeros(1, 3, 112, 112))
    assert seen == [counts[0]] * 3 + [counts[1]] * 3 + [counts[2]] * 3 + [counts[3]]


def test_both_attention_paths_drop_the_same_tokens() -> None:
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for path in ("fused", "math"):
        model = _vit()
        use_attention_path(model, path)
        drop_tokens_in(model, 0, Selection(0.5, True, True))
        outputs.append(model(images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("path", "fused"), [("fused", True), ("math", False)])
def test_the_attention_path_is_that_of_every_block(path: str, fused: bool) -> None:
    model = _vit()
    for block in model.blocks:
        block.attn.fused_attn = not fused
    use_attention_path(model, path)
    assert [block.attn.fused_attn for block in model.blocks] == [fused, fused]


@pytest.mark.parametrize(
    ("path", "enabled"), [("flash", "f"), ("efficient", "e"), ("cudnn", "c"), ("fused", "fecm")]
)
def test_a_kernel_by_its_name_is_the_only_one_allowed(
    monkeypatch: pytest.MonkeyPatch, path: str, enabled: str
) -> None:
    seen: list[str] = []

    def attention(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        allowed = {
            "f": torch.backends.cuda.flash_sdp_enabled(),
            "e": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "c": torch.backends.cuda.cudnn_sdp_enabled(),
            "m": torch.backends.cuda.math_sdp_enabled(),
        }
        seen.append("".join(name for name, yes in allowed.items() if yes))
        return q

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    model = _vit()
    use_attention_path(model, path)
    model(torch.randn(1, 3, 32, 32))
    assert seen == [enabled, enabled]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("fuse", [True, False])
def test_each_criterion_drops_as_many_tokens_and_learns(criterion: str, fuse: bool) -> None:
    model = _vit().train()
    drop_tokens_in(model, 0, Selection(0.5, fuse, False, criterion))
    seen: list[tuple[int, ...]] = []
    model.blocks[0].register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert seen == [(2, 1 + 8 + fuse, 12)]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_chance_is_drawn_in_each_step_and_is_the_same_in_each_evaluation() -> None:
    model, images = _vit(), torch.randn(3, 3, 32, 32)
    drop_tokens_in(model, 0, Selection(0.5, False, False, "random"))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    evaluated = model(images)
    assert torch.equal(model(images), evaluated)
    assert torch.equal(torch.get_rng_state(), before)  # an evaluation draws nothing
    torch.testing.assert_close(model(images[1:2]), evaluated[1:2])
    model.train()
    one, other = model(images), model(images)
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(model(images), one)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_block_that_runs_again_drops_the_tokens_that_it_dropped(fuse: bool) -> None:
    plain, again, images = _vit().train(), _vit().train(), torch.randn(2, 3, 32, 32)
    for model in (plain, again):
        drop_tokens_in(model, 0, Selection(0.5, fuse, False, "random"))
    checkpoint_block(again, 0)
    for step in range(2):
        for model in (plain, again):
            torch.manual_seed(step)
            model.zero_grad()
            model(images).square().sum().backward()
            torch.rand(3)
        for one, other in zip(plain.parameters(), again.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            assert torch.equal(one.grad, other.grad)


def test_queries_and_keys_are_let_go_after_the_drop() -> None:
    model = _vit()
    drop_tokens_in(model, 0, Selection(0.5, True, True))
    model(torch.randn(1, 3, 32, 32))
    drop = model.blocks[0].drop
    assert isinstance(drop, TokenDrop)
    assert drop._qkv is None


def test_a_drop_needs_the_attention_of_its_own_step() -> None:
    with pytest.raises(AssertionError, match="attention runs before its drop"):
        TokenDrop(Selection(0.5, True, True), prefix=1, heads=3)(torch.zeros(1, 5, 12), explicit=False)
