"""Weights of a file: they load whole, or nothing is loaded and why is said."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bsr_explorer.errors import UserError
from bsr_explorer.models.loading import WeightsUsed
from tests.models.checkpoints import TINY, _checkpoint, _make, _one_line, _same


def _plain(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


def _wrapped(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)


def _ema_and_ddp(state: dict[str, Tensor], path: Path) -> None:
    stale = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    best = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": stale, "state_dict_ema": best}, path)


@pytest.mark.parametrize(
    ("filename", "save"),
    [("w.safetensors", save_file), ("w.bin", _plain), ("w.pth", _wrapped), ("w.pt", _ema_and_ddp)],
)
def test_checkpoints_load_whole_whatever_their_wrapping(
    tmp_path: Path, filename: str, save: Callable[[dict[str, Tensor], Path], None]
) -> None:
    state, path = _checkpoint(), tmp_path / filename
    save(state, path)
    model, used = _make(image_size=48, weights=str(path), seed=1)
    fresh, _ = _make(image_size=48, weights="random", seed=1)
    loaded = model.state_dict()
    assert _same(loaded, state, {name for name in state if not name.startswith("head.")})
    assert _same(loaded, fresh.state_dict(), {"head.weight", "head.bias"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert used == WeightsUsed("file", f"{path} (sha256 {digest}…)")


def test_a_head_of_the_same_shape_is_loaded_and_said(tmp_path: Path) -> None:
    state, path = _checkpoint(num_classes=3), tmp_path / "w.safetensors"
    save_file(state, path)
    model, used = _make(image_size=48, weights=str(path))
    assert _same(model.state_dict(), state)
    assert used.detail.endswith("…, with its head)")


def test_a_checkpoint_without_a_head_loads(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in _checkpoint().items() if not name.startswith("head.")}
    save_file(state, tmp_path / "w.safetensors")
    model, _ = _make(image_size=48, weights=str(tmp_path / "w.safetensors"))
    assert _same(state, model.state_dict())


def test_positions_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    save_file(_checkpoint(image_size=96), tmp_path / "w.safetensors")
    model, _ = _make(image_size=48, weights=str(tmp_path / "w.safetensors"))
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "keys missing: 1 (blocks.0.norm1.weight)"),
        ("unexpected", "keys unexpected: 1 (extra.weight)"),
        ("shape", "keys of another shape: 1 (norm.bias)"),
        ("foreign", "(cls_token, pos_embed, patch_embed.proj.weight, …), unexpected: 1 (conv1.weight)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_whole(tmp_path: Path, change: str, says: str) -> None:
    state, path = _checkpoint(), tmp_path / "w.pth"
    if change == "missing":
        del state["blocks.0.norm1.weight"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    elif change == "shape":
        state["norm.bias"] = torch.zeros(5)
    else:
        state = {"conv1.weight": torch.zeros(1)}
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        _make(image_size=48, weights=str(path))
    text = _one_line(error)
    assert f"{path} does not fit {TINY}" in text
    assert says in text


def test_what_timms_filter_cannot_convert_is_refused(tmp_path: Path) -> None:
    state, path = _checkpoint(), tmp_path / "w.pth"
    state["pos_embed"] = torch.zeros(1, 1 + 7, 64)
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        _make(image_size=48, weights=str(path))
    assert "timm cannot convert it" in _one_line(error)


class _Code:
    """Stands for what a pickle could run."""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_Code(), "cannot be read as a checkpoint"),
        ([torch.zeros(1)], "cannot be read as a checkpoint"),
        ({"epoch": 3, "weights": torch.zeros(1)}, "entries that are not tensors (epoch)"),
        ({}, "holds nothing"),
    ],
)
def test_files_that_hold_no_state_dict_are_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(UserError) as error:
        _make(weights=str(path))
    assert says in _one_line(error)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_broken_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError) as error:
        _make(weights=str(path))
    assert f"{path} cannot be read" in _one_line(error)


def test_a_files_head_stands_over_the_start(tmp_path: Path) -> None:
    state = _checkpoint(num_classes=3, image_size=32)
    save_file(state, tmp_path / "w.safetensors")
    model, _ = _make(weights=str(tmp_path / "w.safetensors"), head_std=0.0)
    assert torch.equal(model.head.weight, state["head.weight"])
