"""Block Selective Reprogramming: its arguments, which parameters train, and where tokens are dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.models.geometry import read_geometry
from bsr_explorer.models.vit import step_tape
from bsr_explorer.tape import Tape

bsrs = st.builds(
    Bsr,
    blocks=st.sets(st.integers(0, 40)).map(tuple),
    keep=st.dictionaries(st.integers(0, 40), st.floats(0, 1, exclude_min=True)),
    fuse=st.booleans(),
    head=st.booleans(),
    norm=st.booleans(),
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


@pytest.mark.parametrize("flag", ["fuse", "head", "norm"])
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


def test_a_rate_that_rounds_up_to_every_token_drops_nothing() -> None:
    tape = Bsr((0,), {0: 0.99}).rewrite(_tape(1))
    assert all(op.kind != "drop_tokens" for op in tape)


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
