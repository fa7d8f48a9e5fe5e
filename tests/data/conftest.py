"""Data sets of their own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from bsr_explorer.data import hub, places, sources
from bsr_explorer.data import images as images_module


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, no files of this machine's, and nothing remembered from another test."""
    for module in (hub, places):
        monkeypatch.setattr(module, "answers", lambda url: False)
    monkeypatch.setattr(places, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    sources.load_named.cache_clear()
    images_module._STORE.clear()
    yield
    sources.load_named.cache_clear()
    images_module._STORE.clear()
