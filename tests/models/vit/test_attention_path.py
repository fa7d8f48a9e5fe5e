"""Attention layers run the path that they are told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend

from bsr_explorer.models.vit import attention_path
from bsr_explorer.models.vit.attention_path import use_attention_path

pytestmark = pytest.mark.usefixtures("toy")


def _model() -> Any:
    torch.manual_seed(0)
    return timm.create_model("toy_2", img_size=48, num_classes=3).eval()


@pytest.mark.parametrize("path", ["math", "fused", "flash", "efficient", "cudnn"])
def test_every_layer_is_told(path: str) -> None:
    model = _model()
    use_attention_path(model, path)
    assert [block.attn.fused_attn for block in model.blocks] == [path != "math"] * 2
    assert [block.attn.kernel for block in model.blocks] == [path] * 2


@torch.no_grad()
def test_an_explicit_softmax_computes_the_same() -> None:
    model, images = _model(), torch.randn(2, 3, 48, 48)
    made = []
    for path in ("fused", "math"):
        use_attention_path(model, path)
        made.append(model(images))
    torch.testing.assert_close(made[0], made[1])


@torch.no_grad()
@pytest.mark.parametrize(
    ("path", "kernel"),
    [
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
    ],
)
def test_a_kernel_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, path: str, kernel: SDPBackend
) -> None:
    asked: list[SDPBackend] = []

    @contextmanager
    def noted(wanted: SDPBackend) -> Iterator[None]:
        asked.append(wanted)
        yield

    monkeypatch.setattr(attention_path, "sdpa_kernel", noted)
    model, images = _model(), torch.randn(2, 3, 48, 48)
    before = model(images)
    assert asked == []
    use_attention_path(model, path)
    assert torch.equal(model(images), before)
    assert asked == [kernel] * 2


def test_a_model_without_attention_stays_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    use_attention_path(layer, "math")
    assert not hasattr(layer, "fused_attn")
