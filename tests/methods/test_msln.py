"""MS-LN: what it costs, that gradients are those of the plain model, what it composes with, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import Msln, parse_method
from bsr_explorer.prediction import predict, tape_of
from tests.cost.conftest import Both
from tests.cost.conftest import both as both
from tests.formats import every_way
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="msln")

LORA = "lora(r=4, on=('qkv', 'proj', 'fc1', 'fc2'))"


def _exact(config: Config) -> None:
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


# --- what it costs ------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("method", ["msln", f"{LORA}+msln", "last(k=2)+msln", "lora+approxbp+msln"])
def test_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    _exact(replace(CONFIG, method=method, precision=precision, attention=attention))


def test_what_an_update_reads_is_held_while_the_layer_beside_it_runs(both: Both) -> None:
    """Of a frozen layer, between the norm that goes elsewhere and the update that is computed again from it."""
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "num_heads": 2, "mlp_ratio": 3.0}
    for more in ("", "+approxbp"):
        method = f"lora(r=6, on=('qkv', 'fc1'))+msln{more}+offload"
        predicted, measured = both(method, "fused", 1, "amp_bf16", micro_batches=2, num_classes=100, **shape)
        assert predicted.peak is not None
        assert predicted.peak.operation == "blocks.1.mlp.fc1"
        assert predicted.peak_bytes == measured.peak_bytes


@pytest.mark.parametrize(
    "other",
    [
        "lora(r=2, on='fc1')",
        "dora(on='qkv')",
        "approxbp",
        "checkpoint",
        "checkpoint(blocks=(1, 2))",
        "offload",
        "bsr(blocks=(1, 3), keep={1: 0.5})",
        "lora+offload",
    ],
)
def test_nor_does_what_it_is_composed_with_change_that(other: str) -> None:
    _exact(replace(CONFIG, method=f"{other}+msln", precision="amp_bf16"))
    _exact(replace(CONFIG, method=f"{other}+msln", batch_size=4, micro_batches=2))
    _exact(replace(CONFIG, method=f"msln+{other}", batch_size=1))


def test_the_first_run_of_what_runs_again_holds_it_until_it_is_read(both: Both) -> None:
    """Though nobody keeps it. The peak is there where gradients stand, and the blocks below keep nothing here."""
    method = "last(k=4)+drop({0: 0.3}, fuse=False)+msln+approxbp+checkpoint(blocks=(1, 3))+offload"
    options: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 96, "num_heads": 4, "depth": 4}
    predicted, measured = both(
        method, "math", 5, "amp_bf16", "adamw", micro_batches=2, **options, mlp_ratio=3, num_classes=10
    )
    assert predicted.peak is not None and predicted.peak.operation == "blocks.3.mlp.fc1"
    assert (predicted.peak_bytes, (predicted - measured).rows) == (measured.peak_bytes, ())


OTHER_PARTS: tuple[dict[str, Any], ...] = (
    {"init_values": 1e-4, "num_heads": 1, "reg_tokens": 2, "no_embed_class": True},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4, "pre_norm": True},
    {"class_token": False, "global_pool": "avg", "qkv_bias": False, "proj_bias": False},
)


@pytest.mark.parametrize("options", OTHER_PARTS, ids=lambda options: "+".join(options))
@pytest.mark.parametrize("method", ["msln", f"{LORA}+msln"])
def test_nor_do_other_parts_of_a_model(both: Both, method: str, options: dict[str, Any]) -> None:
    predicted, measured = both(method, "math", 2, "amp_bf16", **{"embed_dim": 24, **options})
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


def test_each_norm_and_its_layer_keep_one_tensor_instead_of_two() -> None:
    """And no mean."""
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    plain, shared = (predict(config.with_method(text)).saved_bytes for text in ("full", "msln"))
    assert plain - shared == 12 * 2 * tokens * (384 + 1) * 4


def test_beside_an_update_of_low_rank_too() -> None:
    """Of the norms that updates read; the first block's runs without a graph."""
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    for method, norms in (
        ("lora(r=4)", 11),
        ("lora(r=4, on=('qkv', 'fc1'))", 23),
        ("lora(r=4, on=('fc1', 'fc2'))", 11),
    ):
        plain, shared = (predict(config.with_method(text)).saved_bytes for text in (method, f"{method}+msln"))
        assert plain - shared == norms * tokens * (384 + 1) * 4, method


def test_a_norm_whose_layer_keeps_nothing_is_left_as_it_is() -> None:
    stored = {op.name for op in tape_of(CONFIG.with_method("lora+msln")) if op.stored}
    assert stored == {
        f"blocks.{block}.{part}" for block in (1, 2, 3) for part in ("norm1", "attn.qkv.lora_A")
    }


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["full", LORA, "last(k=2)", "bsr(blocks=(1, 3), keep={1: 0.5})", "full+approxbp"]
)
def test_gradients_are_those_without_it(method: str) -> None:
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = []
    for text in (method, f"{method}+msln"):
        model = build(CONFIG.with_method(text), seed=3).train()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # neither weight nor bias of a norm is what it is at first, nor an update zero
            for name, p in model.named_parameters():
                if "norm" in name or "lora" in name:
                    p.add_(0.3 * torch.randn(p.shape, generator=generator))
        out = model(images)
        F.cross_entropy(out, torch.arange(4)).backward()
        found.append((out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (out, plain), (same, shared) = found
    assert torch.equal(out, same)
    assert plain.keys() == shared.keys()
    for name, gradient in plain.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(shared[name], gradient, rtol=0, atol=1e-6 * max(1.0, largest), msg=name)


# --- what it goes with --------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["mesa", "backrazor", "velora", "wtacrs"])
def test_what_stores_what_linear_layers_read_is_refused(other: str) -> None:
    with pytest.raises(UserError, match="both choose how linear layers store what they read"):
        parse_method(f"msln+{other}")


@pytest.mark.parametrize("method", ["bitfit", "vpt", "lora(on='fc2')", "apla", "linear"])
def test_where_nothing_is_shared_it_is_refused(method: str) -> None:
    config = CONFIG.with_method(f"{method}+msln")
    with pytest.raises(UserError, match=r"nothing to (share|store)"):
        predict(config)
    with pytest.raises(UserError, match=r"nothing to (share|store)"):
        build(config)


def test_nothing_is_left_of_it() -> None:
    assert Msln().at_inference is None
    assert str(Msln()) == "msln"


def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    check_it_goes_on("last(k=2)+approxbp+msln", tmp_path, epochs=2, after=(1, 6))
