"""The model hub: whether it answers, and models that go by their repository."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.job import Job, _pretrained_mean_std
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models import hub
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.weights import create_model, licence_of
from bsr_explorer.prediction import predict
from bsr_explorer.trained.weights import check

# --- models that go by their repository -----------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which is empty, of a machine that cannot reach it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda: False)
    geometry.cache_clear()
    return tmp_path


@pytest.fixture
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> timm.models.VisionTransformer:
    """A repository acme/small in the cache: the model whose weights it holds."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = cache / "models--acme--small"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=7)
    about = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": {"depth": 2},
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "license": "cc0",
            "input_size": [3, 224, 224],
            "num_classes": 7,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (snapshot / "config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_model_goes_by_its_repository(prefix: str, cached: timm.models.VisionTransformer) -> None:
    config = Config(f"{prefix}acme/small", 64, 3, 2, method="last(k=1)")
    assert geometry(config.model, 64, 3).depth == 2
    assert (predict(config) - measure(config)).rows == ()
    check(config)
    for weights in ("hub", "auto"):
        model, used = create_model("hf-hub:acme/small", image_size=224, num_classes=3, weights=weights)
        assert (used.source, used.detail) == ("hub", "acme/small")
        theirs = cached.state_dict()
        mine = {name: t for name, t in model.state_dict().items() if not name.startswith("head.")}
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert _pretrained_mean_std(config, Job().weights) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert licence_of("hub", "hf-hub:acme/small") == "cc0"
    assert config.key(2) == Config("hf-hub:acme/small", 64, 3, 2, method="last(k=1)").key(2)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "name", ["hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "hf_hub:timm/deit_tiny_patch16_224"]
)
def test_timm_s_own_need_no_hub(name: str) -> None:
    own = name.rpartition("/")[2]
    assert predict(Config(name, 64)).rows == predict(Config(own, 64)).rows
    assert Config(name, 64).key(12) == Config(own, 64).key(12)


@pytest.mark.usefixtures("cache")
def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        predict(Config("hf-hub:acme/small", 64))
    assert str(error.value).startswith(
        f"--model: hf-hub:acme/small: the model hub cannot be reached ({constants.ENDPOINT}), and acme/small is not in "
        "its cache; choose an alias (deit_t, "
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and acme/small is not in the hub's cache"):
        predict(Config("hf_hub:acme/small", 64))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf-hub:a/b/c", "'hf-hub:a/b/c' names no repository; write hf-hub:owner/name, or choose an alias"),
        ("hf-hub:", "'hf-hub:' names no repository"),
        ("hf-hub:timm/no_such_vit", "unknown model 'no_such_vit'"),
        ("hub:acme/small", "unknown model 'hub:acme/small'"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_what_names_no_model_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        predict(Config(name, 64))
    assert words in str(error.value)


def test_a_model_that_timm_does_not_know_is_refused(cached: object, cache: Path) -> None:
    (file,) = cache.rglob("config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "architecture": "vit_of_tomorrow"}))
    with pytest.raises(UserError, match="is the model 'vit_of_tomorrow', which timm does not know"):
        predict(Config("hf-hub:acme/small", 64))


# --- whether it answers ---------------------------------------------------------------------------------


class _Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (404, True), (503, False)])
def test_the_probe_asks_the_endpoint(monkeypatch: pytest.MonkeyPatch, status: int, reachable: bool) -> None:
    monkeypatch.setattr(_Answer, "status", status)
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.answers() is reachable
        server.shutdown()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "not a url"])
def test_the_probe_survives_what_is_no_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert not hub.answers()


def test_the_probe_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(1)
        raise TimeoutError

    monkeypatch.setattr(hub, "urlopen", hang)
    start = time.perf_counter()
    assert not hub.answers(timeout=0.05)
    assert time.perf_counter() - start < 0.5
