"""A model goes on from what its first blocks have made."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.prefix.cache import Cache
from bsr_explorer.prefix.prefix import Prefix
from bsr_explorer.prefix.stages import stages_of
from bsr_explorer.train.step import autocast
from tests.prefix.kept import module_in

GOING_ON = ("last(k=1)", "bsr(blocks=(2,), keep={0: 0.5, 3: 0.5})", "linear")

PRECISIONS = ("fp32", "amp_bf16", "bf16")


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("model", "method", "precision"),
    [
        *(("toy", method, precision) for method in GOING_ON for precision in PRECISIONS),
        *(
            (model, GOING_ON[at], PRECISIONS[(at + far) % 3])  # each with each of the other two
            for far, model in enumerate(("deit_t", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"))
            for at in range(3)
        ),
    ],
)
def test_a_model_goes_on_from_what_its_blocks_have_made(
    cache: Cache, model: str, method: str, precision: str
) -> None:
    config = Config(model, 56 if "14" in model else 48, method=method, precision=precision)
    whole = module_in(config)
    stages = stages_of(config)
    prefix = Prefix(whole, stages, cache, precision, model)
    images = torch.randn(2, 3, config.image_size, config.image_size, dtype=next(whole.parameters()).dtype)
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        tokens = prefix.model.prefix(images)
        assert tuple(tokens.shape[1:]) == stages[prefix.blocks].shape
        assert tokens.dtype == images.dtype
        assert torch.equal(prefix.model(tokens), whole(images))
        assert torch.equal(prefix.model(images), whole(images))
    assert len(stages) == 1 + len(whole.blocks)
