"""Approx-BP: what it costs, what it composes with, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import ApproxBP, parse_method
from bsr_explorer.models.vit.reading import read_geometry
from bsr_explorer.models.vit.step import step_tape
from bsr_explorer.prediction import predict
from tests.formats import every_way

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="approxbp")


def _exact(config: Config) -> None:
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@every_way
def test_what_is_predicted_is_measured(precision: str, attention: str) -> None:
    _exact(replace(CONFIG, precision=precision, attention=attention))


@pytest.mark.parametrize(
    "other",
    [
        "lora",
        "bitfit",
        "velora(groups=8)",
        "checkpoint",
        "offload",
        "bsr(blocks=(1, 3), keep={1: 0.5})",
        "vpt+offload",
    ],
)
def test_nor_does_what_it_is_composed_with_change_that(other: str) -> None:
    _exact(replace(CONFIG, method=f"{other}+approxbp", precision="amp_bf16"))
    _exact(replace(CONFIG, method=f"{other}+approxbp", batch_size=4, micro_batches=2, attention="math"))


def test_a_hidden_layer_takes_two_bits_instead_of_thirty_two() -> None:
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    for method in ("lora", "full"):
        plain, packed = (
            predict(config.with_method(text)).saved_bytes for text in (method, f"{method}+approxbp")
        )
        assert plain - packed == 12 * tokens * 1536 * (4 - 1 / 4)


@pytest.mark.parametrize("other", ["mesa", "backrazor"])
def test_what_stores_activations_too_is_refused(other: str) -> None:
    with pytest.raises(UserError, match="both choose how activations store what they read"):
        parse_method(f"approxbp+{other}")


def test_a_model_without_gelu_is_refused() -> None:
    model = VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=12,
        depth=2,
        num_heads=3,
        mlp_layer=SwiGLUPacked,
        act_layer=nn.SiLU,
    )
    with pytest.raises(UserError, match="is for GELU, and the blocks of this model have none"):
        ApproxBP().rewrite(step_tape(read_geometry(model), 2, "fused"))
    with pytest.raises(UserError, match="is for GELU"):
        ApproxBP().apply(model)
