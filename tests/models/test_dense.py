"""Heads for dense prediction: their shapes, and their steps against real ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.finetune.run import fine_tune
from bsr_explorer.models import dense
from bsr_explorer.models.architecture import geometry
from bsr_explorer.naming import naming_of
from bsr_explorer.prediction import predict
from tests.models.traced.test_tape import sums

DENSE = "bsr_explorer.models.dense"
LINEAR = f'{DENSE}:linear(backbone="deit_t")'
UPERNET = f'{DENSE}:upernet_lite(backbone="deit_t", width=32)'


@pytest.mark.parametrize("model", [LINEAR, UPERNET])
def test_each_pixel_has_logits_and_blocks_are_the_backbones(model: str) -> None:
    built = build(Config(model, 64, 7, 1, method="linear"))
    assert built(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 64, 64)
    assert naming_of(built).paths == tuple(f"backbone.blocks.{n}" for n in range(12))
    trains = {name.split(".")[0] for name, p in built.named_parameters() if p.requires_grad}
    assert "head" in trains and geometry(model, 64, 7).depth == 12
    assert not any("blocks" in name for name, p in built.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("model", [LINEAR, UPERNET])
@pytest.mark.parametrize("method", ["linear", "last(k=1)", "full", "full+checkpoint", "bitfit"])
def test_a_step_is_predicted_to_the_byte(model: str, method: str) -> None:
    config = Config(model, 32, 5, 2, method=method)
    assert sums(predict(config)) == sums(measure(config))


def test_labels_are_as_many_as_pixels() -> None:
    config = Config(LINEAR, 32, 5, 2, method="linear")
    assert predict(config).input_bytes == measure(config).input_bytes == 2 * 32 * 32 * (3 * 4 + 8)


@pytest.mark.parametrize("backbone", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_a_pyramid_of_maps_is_decoded_as_it_is(backbone: str) -> None:
    net = dense.upernet_lite(64, 3, backbone=backbone, width=32)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ('linear(backbone="no_such")', "backbone: no_such gives no 1 feature maps"),
        ("upernet_lite(width=42)", "width: 42 must be a multiple of 4"),
        ("linear(deit_t)", "the arguments of .* cannot be read"),
        ('linear(bakbone="deit_t")', "unexpected keyword argument 'bakbone'"),
    ],
)
def test_bad_arguments_are_one_line(call: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        predict(Config(f"{DENSE}:{call}", 32, 5, 2, method="linear"))
    assert "\n" not in str(error.value)


def test_a_data_set_of_images_does_not_train_it() -> None:
    with pytest.raises(UserError, match="--model: it classifies pixels"):
        fine_tune(Config(LINEAR, 32, 10, 2, method="linear"), weights="random")


def test_pyramids_keep_one_size_an_image() -> None:
    head = dense.UPerNetLite([8, 8, 8, 8], 3, 32)
    assert head([torch.zeros(1, 8, 4, 4)] * 4).shape == (1, 3, 16, 16)
    assert isinstance(head.classify, nn.Conv2d)
