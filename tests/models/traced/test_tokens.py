"""Token drops in traced models: who can, why others cannot, and what is held and computed then."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.architecture import geometry
from bsr_explorer.models.base import Selection
from bsr_explorer.models.traced.tokens import has_class_token, prefix_tokens, why_not
from bsr_explorer.prediction import predict, tape_of, tokens_by_block

DISTILLED = "deit_tiny_distilled_patch16_224"


def test_a_distilled_model_has_a_class_token_and_one_more() -> None:
    built = build(Config(DISTILLED, 48, 10, 2, method="full"))
    assert (why_not(built), has_class_token(built), prefix_tokens(built)) == ("", True, 2)
    assert geometry(DISTILLED, 48, 10).class_token


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
        ("convnext_atto", "it is a ConvNeXt"),
        ("vit_base_patch16_siglip_224", "its head attends to all of its tokens"),
        ("beit_base_patch16_224", "it is a Beit"),
        ("vit_relpos_small_patch16_224", "it is a VisionTransformerRelPos"),
        ("vit_medium_patch16_reg4_gap_256", ""),
    ],
)
def test_others_say_why_they_drop_none(model: str, why: str) -> None:
    import timm

    from bsr_explorer.models.paper import on_paper

    with on_paper():
        built = timm.create_model(model, num_classes=10)
    assert why_not(built).startswith(why) and bool(why_not(built)) == bool(why)
    assert not has_class_token(built) and (prefix_tokens(built) == 0) == bool(why)


@pytest.mark.parametrize(
    "method", ["bsr(blocks=(1,), keep={1: 0.5})", "full+drop({1: 0.5}, criterion='norm')"]
)
def test_it_is_refused_in_one_line(method: str) -> None:
    with pytest.raises(
        UserError, match=r"^--method: .*(cannot drop tokens, for it is a|has none)"
    ) as refused:
        predict(Config("convnext_atto", 64, 10, 2, method=method))
    assert "\n" not in str(refused.value)


def test_queries_that_are_changed_first_are_no_scores() -> None:
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
    assert why_not(VisionTransformer(**sizes)) == ""
    assert (
        why_not(VisionTransformer(**sizes, qk_norm=True))
        == "the attention of its block 0 changes queries and keys"
    )


@pytest.mark.parametrize(
    "method",
    [
        "bsr(blocks=(5, 11), keep={2: 0.5, 6: 0.7}, fuse=True)",
        "full+drop({0: 0.5, 11: 0.5}, fuse=False)",
        "bsr(blocks=(11,), keep={3: 0.5}, fuse=True, criterion='random')",
        "bsr(blocks=(11,), keep={3: 0.5}, fuse=True, criterion='attention')",
        "full+adapler(0.6)",
        "lora+evit(0.5)",
        "full+evit(0.7)+checkpoint",
    ],
)
def test_a_step_with_drops_is_as_predicted(method: str) -> None:
    config = Config(DISTILLED, 48, 10, 2, method=method, optimizer="sgd")
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops
    assert predicted.held_bytes == measured.held_bytes
    assert abs(predicted.peak_bytes - measured.peak_bytes) <= 0.01 * measured.peak_bytes


@pytest.mark.parametrize("precision", ["bf16", "amp_bf16"])
def test_so_it_is_in_16_bits(precision: str) -> None:
    config = Config(DISTILLED, 48, 10, 2, precision=precision, method="bsr", optimizer="sgd")
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.train_flops == measured.train_flops


def test_tokens_are_those_of_a_plain_model_with_one_more() -> None:
    config = Config(DISTILLED, 224, 10, 1, method="bsr")
    plain = tokens_by_block(config.with_method("bsr"))
    assert plain[3] == (198, 101) and plain[11] == (29, 29)
    assert tokens_by_block(Config("deit_t", 224, 10, 1, method="bsr"))[3] == (197, 100)


def test_a_tape_knows_the_drops_that_it_was_traced_with() -> None:
    from bsr_explorer.models.architecture import ARCHITECTURES

    tape = tape_of(Config(DISTILLED, 48, 10, 2, method="full+drop({3: 0.5}, fuse=True)"))
    assert tape.drops == {3: Selection(0.5, True, True)}
    architecture = ARCHITECTURES[tape.architecture]
    assert architecture.drop_tokens(tape, 3, Selection(0.5, True, True)) is tape
    with pytest.raises(UserError, match="bsr, drop, evit and adapler"):
        architecture.drop_tokens(tape, 4, Selection(0.5, True, True))


def test_what_drops_tokens_in_its_own_way_is_refused() -> None:
    for method in ("sparse_tuning", "alast"):
        with pytest.raises(UserError, match=r"^--method"):
            predict(Config(DISTILLED, 48, 10, 2, method=method))
