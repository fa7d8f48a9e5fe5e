"""Block Selective Reprogramming: its arguments, which parameters train, and where tokens are dropped."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.models.vit.attention_path import use_attention_path
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.prediction import predict
from bsr_explorer.tape import Tape

bsrs = st.builds(
    Bsr,
    blocks=st.sets(st.integers(0, 40)).map(tuple),
    keep=st.dictionaries(st.integers(0, 40), st.floats(0, 1, exclude_min=True)),
    fuse=st.booleans(),
    head=st.booleans(),
    norm=st.booleans(),
    faithful=st.booleans(),
)


def _vit(depth: int = 12, **options: Any) -> VisionTransformer:
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=8, depth=depth, num_heads=2, num_classes=3, **options
    )


def _tape(depth: int = 12, **options: Any) -> Tape:
    with torch.device("meta"):
        return step_tape(read_geometry(_vit(depth, **options)), 1, "fused")


@given(bsrs)
def test_an_expression_is_read_back(method: Bsr) -> None:
    assert parse_method(str(method)) == method


@given(bsrs)
def test_a_canonical_form_is_its_own(method: Bsr) -> None:
    once = method.canonical(41)
    assert once.canonical(41) == once


@given(bsrs)
def test_a_canonical_form_trains_and_drops_the_same(method: Bsr) -> None:
    once = method.canonical(41)
    assert isinstance(once, Bsr)
    assert (once.blocks, once.dropping) == (method.blocks, method.dropping)
    assert (once.head, once.norm) == (method.head, method.norm)


def test_blocks_are_sorted() -> None:
    assert Bsr((11, 3, 7)).blocks == (3, 7, 11)


def test_keep_rates_are_sorted_by_block() -> None:
    assert str(Bsr((1,), {9: 0.5, 3: 1})) == "bsr(blocks=(1,), keep={3: 1.0, 9: 0.5}, fuse=True)"


def test_one_block_needs_no_parentheses() -> None:
    assert Bsr(5).blocks == (5,)  # type: ignore[arg-type]


def test_changing_a_dictionary_later_changes_no_method() -> None:
    keep = {3: 0.5}
    method = Bsr((1,), keep)
    keep[6] = 0.1
    assert method.keep == {3: 0.5}


@pytest.mark.parametrize("block", [True, 1.0, -1, "3", None])
def test_what_is_no_block_index_is_refused(block: Any) -> None:
    with pytest.raises(UserError, match=r"bsr\(blocks=…\): .* is no block index"):
        Bsr((3, block))
    with pytest.raises(UserError, match=r"bsr\(keep=…\): .* is no block index"):
        Bsr(keep={block: 0.5})


def test_a_block_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="block 7 is named twice"):
        Bsr((7, 3, 7))


@pytest.mark.parametrize("rate", [0, -0.5, 1.01, float("nan"), float("inf"), True, "0.5", None])
def test_a_keep_rate_out_of_range_is_refused(rate: Any) -> None:
    with pytest.raises(UserError, match="a keep rate must be above 0 and at most 1"):
        Bsr(keep={3: rate})


@pytest.mark.parametrize("keep", [0.5, [(3, 0.5)], None, "{}"])
def test_keep_is_by_block(keep: Any) -> None:
    with pytest.raises(UserError, match="keep must say a rate for each block that drops"):
        Bsr(keep=keep)


@pytest.mark.parametrize("flag", ["fuse", "head", "norm", "faithful"])
def test_flags_are_true_or_false(flag: str) -> None:
    with pytest.raises(UserError, match=rf"bsr\({flag}=1\): {flag} must be True or False"):
        Bsr(**{flag: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Bsr((12,), {}), Bsr((), {12: 0.5})])
def test_a_block_out_of_range_names_the_range_and_an_example(method: Bsr) -> None:
    for refuse in (lambda: method.rewrite(_tape()), lambda: method.apply(_vit())):
        with pytest.raises(UserError, match="block 12 is out of range; the model has 12 blocks, 0 to 11"):
            refuse()


@given(st.integers(1, 48))
def test_the_example_for_any_depth_fits_it(depth: int) -> None:
    example = Bsr.stretched(depth)
    example.check(depth)
    assert depth - 1 in example.blocks


def test_the_papers_blocks_are_for_12() -> None:
    assert Bsr.stretched(12) == Bsr()
    assert Bsr.stretched(24) == Bsr((7, 15, 23), {6: 0.5, 12: 0.5, 18: 0.5})


def test_block_1_is_not_block_11_nor_norm1_nor_fc1() -> None:
    method = Bsr((1,), {}, head=False, norm=False)
    model = method.apply(_vit())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("blocks.1.")}
    assert {name for name, p in method.rewrite(_tape()).parameters.items() if p.trains} == trained


@pytest.mark.parametrize(
    ("head", "norm", "trained"),
    [
        (True, True, {"head.weight", "head.bias", "norm.weight", "norm.bias"}),
        (True, False, {"head.weight", "head.bias"}),
        (False, True, {"norm.weight", "norm.bias"}),
    ],
)
def test_head_and_norm_train_if_they_are_told_to(head: bool, norm: bool, trained: set[str]) -> None:
    tape = Bsr((), {}, head=head, norm=norm).rewrite(_tape(2))
    assert {name for name, p in tape.parameters.items() if p.trains} == trained


def test_training_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="trains nothing"):
        Bsr((), {}, head=False, norm=False).rewrite(_tape(2))


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    with pytest.raises(UserError, match="trains nothing"):
        Bsr((), {}, head=False, norm=False).apply(_vit(2))


def test_without_a_class_token_nothing_can_be_dropped() -> None:
    options: dict[str, Any] = {"class_token": False, "global_pool": "avg", "reg_tokens": 2}
    method = Bsr((1,), {0: 0.5})
    with pytest.raises(UserError, match="and the model has none"):
        method.rewrite(_tape(2, **options))
    with pytest.raises(UserError, match="and the model has none"):
        method.apply(_vit(2, **options))


def test_without_a_class_token_blocks_can_be_chosen_all_the_same() -> None:
    tape = Bsr((1,), {0: 1.0}).rewrite(_tape(2, class_token=False, global_pool="avg"))
    assert tape.tensors["blocks.1.out"].shape[1] == 16


def test_each_block_of_keep_drops_at_its_own_rate() -> None:
    tape = Bsr((0,), {0: 0.5, 1: 1.0, 2: 0.25}, fuse=True).rewrite(_tape(3))
    counts = [tape.tensors[f"blocks.{block}.out"].shape[1] for block in range(3)]
    # of 16 patches, 8 stay beside class and fused token; of those 9, ceil(2.25) do
    assert counts == [1 + 8 + 1, 1 + 8 + 1, 1 + 3 + 1]


@pytest.mark.parametrize(
    ("fuse", "faithful", "tokens"), [(True, True, 18), (True, False, 17), (False, True, 17)]
)
def test_where_a_rate_keeps_every_token_the_authors_add_one_of_zeros(
    fuse: bool, faithful: bool, tokens: int
) -> None:
    method = Bsr((0,), {0: 0.99}, fuse, faithful=faithful)
    tape = method.rewrite(_tape(1))
    assert tape.tensors["blocks.0.out"].shape[1] == tokens
    seen = []
    model = method.apply(_vit(1))
    model.blocks[0].norm2.register_forward_hook(lambda module, args, out: seen.append(args[0]))  # type: ignore[index]
    model(torch.randn(2, 3, 32, 32))
    assert seen[0].shape[1] == tokens
    assert bool((seen[0][:, 17:] == 0).all())


def test_without_a_fused_token_there_is_no_score_to_pass_a_gradient_to() -> None:
    assert Bsr((1,), {0: 0.5}, fuse=False, faithful=False).canonical(2) == Bsr((1,), {0: 0.5}, fuse=False)
    assert Bsr((1,), {}, faithful=False).canonical(2) == Bsr((1,), {}, fuse=False)
    cheaper = Bsr((1,), {0: 0.5}, faithful=False)
    assert cheaper.canonical(2) == cheaper != Bsr((1,), {0: 0.5})


def test_only_dropping_is_left_when_training_is_over() -> None:
    assert Bsr((1,), {0: 1.0}).at_inference is None
    assert Bsr((1,), {0: 0.5}).at_inference == Bsr((1,), {0: 0.5})
    assert parse_method("bsr(keep={1: 0.5})+mesa+checkpoint").at_inference == Bsr(keep={1: 0.5})


@settings(max_examples=15)
@given(
    keep=st.dictionaries(st.integers(0, 2), st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.95, 1.0])),
    fuse=st.booleans(),
    registers=st.sampled_from([0, 2]),
)
def test_the_model_has_the_tokens_that_the_tape_says(
    keep: dict[int, float], fuse: bool, registers: int
) -> None:
    model = _vit(3, reg_tokens=registers)
    tape = Bsr((2,), keep, fuse).rewrite(step_tape(read_geometry(model), 2, "fused"))
    Bsr((2,), keep, fuse).apply(model)
    seen = []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    model(torch.zeros(2, 3, 32, 32))
    assert seen == [tape.tensors[f"blocks.{block}.mlp.fc2.out"].shape for block in range(3)]


def test_below_the_lowest_trained_block_there_is_no_graph() -> None:
    model = Bsr((2, 3), {0: 0.5}).apply(_vit(4))
    graph: list[bool] = []
    for block in model.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, args, out: graph.append(out.grad_fn is not None))
    model(torch.zeros(1, 3, 32, 32))
    assert graph == [False, False, True, True]


def test_only_what_trains_gets_a_gradient() -> None:
    model = Bsr((1,), {2: 0.5}).apply(_vit(4))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    of_block_1 = {name for name, _ in model.named_parameters() if name.startswith("blocks.1.")}
    assert with_gradient == {"head.weight", "head.bias", "norm.weight", "norm.bias"} | of_block_1


class _AsTheAuthors(torch.nn.Module):
    """A block that drops tokens as the authors' code says it: scores from the softmax of its own attention, kept
    tokens gathered, the others weighted one by one. Every operation is autograd's own."""

    def __init__(self, block: Any, keep: float, prefix: int, fuse: bool) -> None:
        super().__init__()
        self.block, self.keep, self.prefix, self.fuse = block, keep, prefix, fuse

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part, attn, prefix = self.block, self.block.attn, self.prefix
        qkv = attn.qkv(part.norm1(x)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        softmax = (q * attn.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + part.ls1(attn.proj((softmax @ v).transpose(1, 2).flatten(2)))
        scores = softmax[:, :, 0, prefix:].mean(dim=1)
        count = math.ceil(self.keep * scores.shape[1])
        order = scores.argsort(dim=1, descending=True)
        kept, others = order[:, :count], order[:, count:]
        patches = x[:, prefix:]

        def rows(where: torch.Tensor) -> torch.Tensor:
            return patches.gather(1, where.unsqueeze(2).expand(-1, -1, x.shape[2]))

        parts = [x[:, :prefix], rows(kept)]
        if self.fuse:
            parts.append((rows(others) * scores.gather(1, others).unsqueeze(2)).sum(1, keepdim=True))
        x = torch.cat(parts, dim=1)
        return cast(torch.Tensor, x + part.ls2(part.mlp(part.norm2(x))))


def _gradients(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 3).backward()
    return {name.replace("block.", ""): p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("more", ["", "+checkpoint", "+offload"])
@pytest.mark.parametrize("path", ["fused", "math"])
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("images", [1, 3])
def test_gradients_are_those_of_the_authors(fuse: bool, path: str, images: int, more: str) -> None:
    keep = {1: 0.5, 2: 0.6, 3: 0.99}
    torch.manual_seed(0)
    theirs = Bsr((1, 3), {}).apply(_vit(5, reg_tokens=2)).double()
    ours = copy.deepcopy(theirs)
    for block, rate in keep.items():
        theirs.blocks[block] = _AsTheAuthors(theirs.blocks[block], rate, 3, fuse)  # type: ignore[index,operator]
    use_attention_path(ours, path)
    parse_method(f"bsr(blocks=(1, 3), keep={keep}, fuse={fuse}){more}").apply(ours)
    batch = torch.randn(images, 3, 32, 32, dtype=torch.float64)
    expected, got = _gradients(theirs, batch), _gradients(ours, batch)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-6, atol=1e-12, msg=name)


def test_our_cheaper_variant_has_other_gradients_and_the_same_outputs() -> None:
    torch.manual_seed(0)
    plain = _vit(4)
    images = torch.randn(2, 3, 32, 32)
    models = [
        Bsr((1, 3), {1: 0.5, 2: 0.5}, faithful=faithful).apply(copy.deepcopy(plain))
        for faithful in (True, False)
    ]
    assert torch.equal(models[0](images), models[1](images))
    faithful, cheaper = (_gradients(model, images)["blocks.1.attn.qkv.weight"] for model in models)
    difference = float((faithful - cheaper).norm() / faithful.norm())
    assert 1e-4 < difference < 0.6  # one layer alone may be far off


def test_what_is_left_out_follows_the_model_and_what_is_said_does_not() -> None:
    large = replace(KNOWN["vit_large_patch16_224"], name="vit_l")
    assert str(parse_method("bsr", large)) == str(parse_method("bsr()", large)) == str(Bsr.stretched(24))
    assert parse_method("bsr(blocks=(1,))+mesa", large) == parse_method(
        "bsr(blocks=(1,), keep={6: 0.5, 12: 0.5, 18: 0.5})+mesa"
    )
    said = "bsr(blocks=(3, 7, 11), keep={3: 0.5, 6: 0.5, 9: 0.5})"
    assert parse_method(said, large) == Bsr()
    without = replace(large, class_token=False)
    assert parse_method("bsr", without) == Bsr((7, 15, 23), {})


@pytest.mark.parametrize(
    ("blocks", "instead"), [((3,), "blocks=(3,), keep={}"), ((30,), "blocks=(3, 8, 13), keep={}")]
)
def test_without_a_class_token_it_offers_what_would_work(blocks: tuple[int, ...], instead: str) -> None:
    config = Config("vit_wee_patch16_reg1_gap_256", 64, method=Bsr(blocks, {3: 0.5}))
    for refused in (lambda: predict(config), lambda: build(config)):
        with pytest.raises(UserError, match=re.escape(f"for example bsr({instead}, fuse=False)")):
            refused()
    predict(config.with_method(f"bsr({instead})"))
