"""Methods that bring parameters of their own: what they cost, what is refused, what is left of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import SwiGLUPacked
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.methods.adding import LAYERS, Adding, checked_layers
from bsr_explorer.methods.side import SideNetwork
from bsr_explorer.models.architecture import ARCHITECTURES
from bsr_explorer.models.vit.architecture import PlainViT
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.trained import onnx
from tests.cost.conftest import Both
from tests.cost.conftest import both as both
from tests.formats import every_way
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="full")
ADDING = [name for name, method in METHODS.items() if issubclass(method, Adding)]
every_adding = pytest.mark.parametrize("name", ADDING)

VARIANTS = (
    "lora(r=4, on=('qkv', 'proj', 'fc1', 'fc2'))",
    "lora(r=2, on='fc2', alpha=4)",
    "lora_fa(r=4, on=('proj', 'fc2'))",
    "dora(r=4, on=('qkv', 'proj', 'fc1', 'fc2'), alpha=4)",
    "vera(r=3, on=('qkv', 'proj', 'fc1', 'fc2'))",
    "paca(r=4, on=('qkv', 'fc2'))",
    "apla(r=3)",
    "spt(share={'proj': 0.02, 'fc1': 1.0})",
    "adapter(width=4, mode='parallel')",
    "adapter(width=4, mode='serial', scale=0.5)",
    "vpt(tokens=1)",
    "vpt(tokens=2, deep=True)",
    "lst(r=4)",
    "dtl(r=3, first=1)",
    "sherl(r=4)",
    "losa(r=12)",
    "dtl(r=2, first=1, plus=True)",
    "repnet(r=4, groups=1)",
    "tinytl(r=8, groups=1)",
)
"""Other arguments than the defaults."""

BESIDE = ("checkpoint", "offload(blocks=(0, 2))", "drop({1: 0.5})", "mesa(faithful=False)", "backrazor")


def _exact(config: Config) -> None:
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@every_way
@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_what_is_predicted_is_measured(method: str, precision: str, attention: str) -> None:
    _exact(replace(CONFIG, method=method, precision=precision, attention=attention))


@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_one_image_and_micro_batches_change_nothing_of_that(method: str) -> None:
    _exact(replace(CONFIG, method=method, batch_size=1, attention="math"))
    _exact(replace(CONFIG, method=method, batch_size=4, micro_batches=2, optimizer="sgd_momentum"))


OTHER_PARTS: tuple[dict[str, Any], ...] = (
    {"init_values": 1e-4, "num_heads": 1, "reg_tokens": 2, "no_embed_class": True},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4, "pre_norm": True},
    {"class_token": False, "global_pool": "avg", "qkv_bias": False, "proj_bias": False},
    {"global_pool": "avg", "fc_norm": False},
)
"""Of timm's vision transformers, beside those of the toy model."""


@pytest.mark.parametrize("options", OTHER_PARTS, ids=lambda options: "+".join(options))
@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_nor_do_other_parts_of_a_model(both: Both, method: str, options: dict[str, Any]) -> None:
    smaller = {"lst": "lst(r=2)", "repnet": "repnet(r=4)", "tinytl": "tinytl(r=4)"}
    method = smaller.get(method, method.replace("r=8", "r=4"))
    if not options.get("class_token", True):
        method = method.replace("sparse_tuning", "sparse_tuning(keep=1.0)")
    predicted, measured = both(method, "math", 2, "amp_bf16", **{"embed_dim": 24, **options})
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == measured.peak_bytes, predicted.peak


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_nor_does_what_they_are_composed_with(method: str, beside: str) -> None:
    if isinstance(parse_method(method), SideNetwork) and not goes_beside(method, beside):
        return
    if method.startswith("sparse_tuning") and beside.startswith("drop"):
        pytest.skip("it says itself which tokens stay")
    config = replace(CONFIG, method=f"{method}+{beside}", precision="amp_bf16")
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    packs = beside.startswith(("mesa", "backrazor"))
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-3 if packs else 0)


def goes_beside(method: str, beside: str) -> bool:
    """Whether a side network goes with it: token drops and what blocks keep, where these keep nothing, are refused."""
    try:
        predict(replace(CONFIG, method=f"{method}+{beside}"))
    except UserError as refused:
        assert re.search("reads the same tokens behind every block|has nothing to store", str(refused))
        assert beside not in ("checkpoint", "offload(blocks=(0, 2))")
        return False
    return True


@every_adding
def test_what_it_brings_and_the_head_train(name: str) -> None:
    method = parse_method(name)
    assert isinstance(method, Adding)
    plain, own = tape_of(CONFIG).parameters, tape_of(CONFIG.with_method(method)).parameters
    trained = {parameter for parameter, p in own.items() if p.trains}
    assert trained == {p for p in own if method.is_own(p) or p.startswith("head.")}
    assert trained - plain.keys()


@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_what_trains_stands_in_the_models_order(method: str) -> None:
    """By which an optimiser's step goes, and with it what it holds."""
    config = CONFIG.with_method(method)
    trained = [name for name, p in build(config).named_parameters() if p.requires_grad]
    assert [name for name, p in tape_of(config).parameters.items() if p.trains] == trained


@every_adding
def test_two_of_them_are_refused(name: str) -> None:
    other = "lora" if name != "lora" else "lora_fa"
    with pytest.raises(UserError, match="both choose which parameters train; keep one"):
        parse_method(f"{name}+{other}")


class Other(PlainViT):
    """An architecture whose blocks have other layers."""

    name = "other"


@pytest.mark.parametrize("name", [name for name in ADDING if hasattr(METHODS[name], "on")])
def test_blocks_without_the_layer_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "other", Other())
    tape = tape_of(CONFIG)
    renamed = tuple(replace(op, name=op.name.replace("attn", "mixer")) for op in tape)
    with pytest.raises(
        UserError, match=r"needs the layer attn\.\w+ of each block, and models .* other have none"
    ):
        parse_method(name).rewrite(replace(tape, ops=renamed, architecture="other"))


@pytest.mark.parametrize(
    ("on", "layers"),
    [
        ("fc2", ("fc2",)),
        (("fc2", "qkv"), ("qkv", "fc2")),
        (["proj"], ("proj",)),
        (tuple(LAYERS), tuple(LAYERS)),
    ],
)
def test_layers_are_named_in_their_order(on: Any, layers: tuple[str, ...]) -> None:
    assert checked_layers("lora", on) == layers


@pytest.mark.parametrize(
    ("on", "says"),
    [
        ("key", r"on=…\): unknown .*'key'.*qkv"),
        (("qkv", "qkv"), "qkv stands twice; name each layer once"),
        ((), "on must name at least one layer of qkv, proj, fc1, fc2"),
        (3, "on must name at least one layer"),
    ],
)
def test_other_layers_are_refused_with_the_choices(on: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked_layers("lora", on)


@pytest.mark.parametrize("method", [*ADDING, *VARIANTS])
def test_a_model_computes_the_same_once_it_is_merged(method: str) -> None:
    """Whatever its own parameters became; or it says that it is still there."""
    config = CONFIG.with_method(method)
    model = build(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        images = torch.randn(3, 3, 48, 48, generator=generator)
        expected = model(images)
        left = config.how.at_inference
        merged = build(CONFIG.with_method(left or "full"), seed=7).eval()
        merged.load_state_dict(config.how.merge(dict(model.state_dict())))
        torch.testing.assert_close(merged(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("method", [*ADDING, "vpt(deep=True)+approxbp", "paca(r=4)+checkpoint"])
def test_an_interrupted_training_goes_on_to_the_same_end(method: str, tmp_path: Path) -> None:
    check_it_goes_on(method, tmp_path, epochs=2, after=(2, 6))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    [
        "adapter(width=4)",
        "adapter(width=4, mode='parallel')",
        "vpt(tokens=2)+drop({1: 0.5})",
        "vpt(tokens=2, deep=True)+drop({1: 0.5})",
        "lst(r=4)",
        "dtl(r=3, first=0)",
        "sherl(r=4)",
        "losa(r=3)",
        "dtl(r=3, first=0, plus=True)",
        "repnet(r=4)",
        "tinytl(r=4)",
    ],
)
def test_what_stays_is_exported_with_the_model(method: str) -> None:
    config = Config("toy_2", 32, 3, 2, method=method)
    model = build(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    apart = onnx.difference(onnx.to_onnx(model, 32), model, 32)
    assert apart is not None and apart < 1e-3
