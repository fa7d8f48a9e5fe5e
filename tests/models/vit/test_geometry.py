"""Geometries: what is read from a model, and which models are refused, by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bsr_explorer.models.names import ALIASES
from bsr_explorer.models.vit.geometry import KNOWN
from bsr_explorer.models.vit.reading import geometry, read_from_timm


@pytest.mark.parametrize(
    ("model", "image_size", "prefix", "tokens"),
    [
        ("vit_s", 224, 1, 197),
        ("dinov2_s", 56, 1, 17),
        ("vit_small_patch14_reg4_dinov2", 56, 5, 21),
        ("vit_medium_patch16_gap_256", 64, 0, 16),
    ],
)
def test_tokens_are_patches_and_prefix(model: str, image_size: int, prefix: int, tokens: int) -> None:
    read = geometry(model, image_size)
    assert (read.prefix_tokens, read.tokens) == (prefix, tokens)


@pytest.mark.parametrize("model", ALIASES)
def test_what_is_known_is_what_timm_builds(model: str) -> None:
    patch = KNOWN[ALIASES[model]].patch
    for size, classes in ((14 * patch, 10), (4 * patch, 100)):
        assert geometry(model, size, classes) == read_from_timm(model, size, classes)


def test_costs_of_a_known_model_need_no_torch() -> None:
    code = (
        "import sys; from bsr_explorer import Config, predict; predict(Config(model='deit_s', batch_size=1)); "
        "print(*sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
