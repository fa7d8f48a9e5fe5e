"""Saved tensors of a real model go to a file and come back the same, and the file goes too."""

from __future__ import annotations

import gc
import tempfile
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.methods.applied import offload as surgery

pytestmark = pytest.mark.usefixtures("toy")


CONFIG = Config("toy", image_size=48, batch_size=2, method="full")


BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"


def gradients(config: Config) -> dict[str, Tensor | None]:
    """The gradient of every parameter for one batch."""
    model = build(config, seed=5).train()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    F.cross_entropy(model(images), torch.arange(2)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", ["full", "bitfit", BSR, f"{BSR}+checkpoint(blocks=(1, 2))"])
@pytest.mark.parametrize("offload", ["offload", "offload(blocks=(1, 2))"])
def test_gradients_are_the_same_to_the_bit(method: str, offload: str) -> None:
    plain = gradients(CONFIG.with_method(method))
    again = gradients(CONFIG.with_method(f"{method}+{offload}"))
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        other = again[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name  # type: ignore[arg-type]


def test_a_file_a_block_is_gone_after_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[weakref.ref[Any]] = []

    def watched() -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        files.append(weakref.ref(file))
        return file

    monkeypatch.setattr(surgery, "TemporaryFile", watched)
    loss = build(CONFIG.with_method("offload"))(torch.zeros(2, 3, 48, 48)).sum()
    assert len(files) == 4
    assert all(file() is not None for file in files)
    loss.backward()
    del loss
    gc.collect()
    assert all(file() is None for file in files)


def test_weights_that_stand_elsewhere_in_the_model_stay_where_they_are() -> None:
    """VeRA's matrices, which all blocks share."""
    model = build(CONFIG.with_method("vera(r=4)"))
    pack = surgery.Elsewhere(model).pack
    weight = model.get_parameter("vera_B.96x32")
    assert pack(weight)().data_ptr() == weight.data_ptr()
    assert pack(weight * 2)().data_ptr() != weight.data_ptr()
