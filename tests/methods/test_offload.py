"""Offloading: saved tensors go to a file and come back the same, and the file goes too."""

from __future__ import annotations

import gc
import tempfile
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.methods import parse_method
from bsr_explorer.methods.applied import offload as surgery
from bsr_explorer.prediction import predict

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


@pytest.mark.parametrize(
    "method", ["offload", f"{BSR}+offload", "last(k=2)+offload(blocks=(3,))", "checkpoint+offload"]
)
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_what_is_predicted_is_measured(method: str, precision: str) -> None:
    config = replace(CONFIG, method=method, precision=precision)
    predicted, measured = predict(config), measure(config)
    assert (predicted - measured).rows == ()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-3)


def test_chosen_blocks_keep_nothing_here() -> None:
    predicted = predict(CONFIG.with_method("offload(blocks=(1, 2))"))
    kept = {row.block for row in predicted if row.kind == "saved"}
    assert kept == {None, 0, 3}
    assert predict(CONFIG.with_method("offload")).train_flops == predict(CONFIG).train_flops


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


def test_however_it_is_written_it_is_one_experiment() -> None:
    keys = {
        CONFIG.with_method(text).key(4)
        for text in (f"{BSR}+checkpoint+offload", f"offload+checkpoint+{BSR}", f"checkpoint+{BSR}+offload()")
    }
    assert len(keys) == 1
    assert str(parse_method("offload+checkpoint+full")) == "full+checkpoint+offload"


def test_a_block_out_of_range_is_refused() -> None:
    for refusing in (predict, build):
        with pytest.raises(UserError, match=r"offload\(blocks=…\): block 4 is out of range"):
            refusing(CONFIG.with_method("offload(blocks=(4,))"))
