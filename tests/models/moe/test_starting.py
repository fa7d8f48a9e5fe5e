"""Experts that begin as an MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bsr_explorer.models.architecture import ARCHITECTURES, build_model
from bsr_explorer.models.weights import create_model

MODEL = "moe_vit(toy, blocks=(1, 3), experts=4, top=4, ratio=1, noise=False)"


@pytest.mark.usefixtures("toy")
def test_with_equal_gates_a_mixture_of_all_slices_is_the_mlp() -> None:
    dense: Any = build_model("toy", 48, 10).eval()
    model: Any = build_model(MODEL, 48, 10).eval()
    assert ARCHITECTURES["moe"].begin(model, dense) == "experts from its MLPs"
    for block in (1, 3):
        torch.nn.init.zeros_(model.blocks[block].mlp.gate.route.weight)
    images = torch.randn(2, 3, 48, 48)
    assert torch.allclose(model(images), dense(images), atol=1e-5)


@pytest.mark.usefixtures("toy")
def test_weights_are_those_of_the_dense_model(tmp_path: Any) -> None:
    dense = build_model("toy", 48, 10)
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    model, used = create_model(MODEL, image_size=48, num_classes=10, weights=str(tmp_path / "dense.pth"))
    assert used.source == "file" and used.detail.endswith("; experts from its MLPs")
    own, theirs = model.state_dict(), dense.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs if "blocks" not in name)
    first = theirs["blocks.1.mlp.fc1.weight"][: own["norm.weight"].numel()]
    assert torch.equal(own["blocks.1.mlp.fc1.weight"][0], first.t())


@pytest.mark.usefixtures("toy")
def test_weights_of_a_mixture_are_its_own(tmp_path: Any) -> None:
    trained = build_model(MODEL, 48, 10)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    model, used = create_model(MODEL, image_size=48, num_classes=10, weights=str(tmp_path / "trained.pth"))
    assert used.source == "file" and "experts from" not in used.detail
    theirs = trained.state_dict()
    assert all(torch.equal(own, theirs[name]) for name, own in model.state_dict().items())
