"""Data sets of their own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bsr_explorer.data import images as images_module
from bsr_explorer.data import places, sources


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, no files of this machine's, and nothing remembered from another test."""
    monkeypatch.setattr(places, "answers", lambda url: False)
    monkeypatch.setattr(places, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    sources.load_named.cache_clear()
    images_module._STORE.clear()
    yield
    sources.load_named.cache_clear()
    images_module._STORE.clear()
