"""Files of a cache, and what is tried with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bsr_explorer.config import Config
from bsr_explorer.finetune.build import build
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.train.step import image_dtype


def never() -> Iterator[Any]:
    """What is not to be asked for."""
    raise AssertionError("made again")


def kept(cache: Cache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.npy")}


def module_in(config: Config) -> Any:
    return build(config).to(image_dtype(config.precision))
