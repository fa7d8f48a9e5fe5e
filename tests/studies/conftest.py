"""What the tests of the studies share."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from bsr_explorer import Config, build
from studies.accuracy_table import small_vit


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small model, as if they were pretrained."""
    path = tmp_path_factory.mktemp("weights") / "small_vit.safetensors"
    state = build(Config("small_vit", small_vit.IMAGE_SIZE, method="full")).state_dict()
    save_file({name: w for name, w in state.items() if not name.startswith("head.")}, path)
    return path
