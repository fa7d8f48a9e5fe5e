"""VeRA: what is merged, what layers share, what it keeps."""

from __future__ import annotations

import copy

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import Vera, parse_method
from bsr_explorer.prediction import predict, tape_of

pytestmark = pytest.mark.usefixtures("toy")

TOY = Config("toy", 48, 5, 2, method="vera(r=4, on=('qkv', 'fc2'))")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Vera()) == "vera(r=256, on=('qkv',))"
    assert parse_method("vera(on=('fc2', 'qkv'), r=2)") == Vera(2, ("qkv", "fc2"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vera(r=0)", r"vera\(r=0\): r must be a whole number of at least 1"),
        ("vera(r=1.5)", "r must be a whole number"),
        ("vera(on='keys')", "unknown .*'keys'.*qkv"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


def test_an_update_is_added_to_its_weight() -> None:
    """W + diag(b)·B·diag(d)·A, of the matrices of the weight's shape."""
    generator = torch.Generator().manual_seed(0)
    names = {
        "fc1.weight": (5, 4),
        "fc1.bias": (5,),
        "fc1.vera_lambda_d.gamma": (3,),
        "fc1.vera_lambda_b.gamma": (5,),
        "vera_A.5x4": (3, 4),
        "vera_B.5x4": (5, 3),
        "vera_A.4x5": (3, 5),
        "vera_B.4x5": (4, 3),
    }
    weights = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    merged = Vera(3, ("fc1",)).merge(weights)
    assert merged.keys() == {"fc1.weight", "fc1.bias"}
    d, b = (weights[f"fc1.vera_lambda_{part}.gamma"].diag() for part in "db")
    expected = weights["fc1.weight"] + b @ weights["vera_B.5x4"] @ d @ weights["vera_A.5x4"]
    torch.testing.assert_close(merged["fc1.weight"], expected)


def test_layers_of_one_shape_share_their_matrices() -> None:
    """On the tape and in the model each pair stands once, and is counted once."""
    pairs = {f"vera_{part}.{shape}" for part in "AB" for shape in ("96x32", "32x128")}
    model = build(TOY)
    assert {name for name in tape_of(TOY).parameters if name.startswith("vera_")} == pairs
    assert {name for name, _ in model.named_parameters() if name.startswith("vera_")} == pairs
    assert {name for name in model.state_dict() if "vera_A" in name or "vera_B" in name} == pairs
    numbers = 4 * (32 + 96 + 128 + 32) + 4 * (4 + 96 + 4 + 32)  # matrices; vectors of four blocks
    plain = predict(TOY.with_method("linear")).bytes_of("parameter")
    assert predict(TOY).bytes_of("parameter") - plain == 4 * numbers


def test_a_copy_of_a_model_has_its_own() -> None:
    """Not those of the model that it is a copy of."""
    model = build(TOY).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("vera_lambda_b.gamma"):
                parameter.normal_()
    twin, images = copy.deepcopy(model), torch.randn(2, 3, 48, 48)
    before = model(images)
    with torch.no_grad():
        twin.get_parameter("vera_A.96x32").zero_()
    torch.testing.assert_close(model(images), before)
    assert not torch.allclose(twin(images), before)


def test_fewer_numbers_train_than_of_a_lora_and_more_is_kept() -> None:
    """Instead of the layer's input: what d multiplies, and what b does."""
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    lora, vera = (predict(config.with_method(f"{name}(r=8)")) for name in ("lora", "vera"))
    assert vera.saved_bytes - lora.saved_bytes == 12 * 4 * tokens * (3 * 384 - 384)
    assert vera.bytes_of("gradient") < lora.bytes_of("gradient")
