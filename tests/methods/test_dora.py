"""DoRA: what is merged, what it keeps."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Dora, parse_method
from bsr_explorer.prediction import predict


def test_it_is_written_as_it_is_read() -> None:
    assert str(Dora(4)) == "dora(r=4, on=('qkv',))"
    assert parse_method("dora(r=4, on='fc2', alpha=16)") == Dora(4, ("fc2",), 16.0)


@pytest.mark.usefixtures("toy")
def test_a_rank_beyond_the_matrix_is_refused() -> None:
    with pytest.raises(UserError, match="so r must be 1 to 32"):
        predict(Config("toy", 48, 5, 2, method="dora(r=33)"))


def test_rows_of_the_sum_get_the_lengths_that_were_trained() -> None:
    generator = torch.Generator().manual_seed(0)
    names = {
        "weight": (5, 4),
        "lora_A.weight": (2, 4),
        "lora_B.weight": (5, 2),
        "lora_magnitude_vector": (5,),
    }
    weights = {f"fc1.{name}": torch.rand(shape, generator=generator) for name, shape in names.items()}
    merged = Dora(2, ("fc1",), 6.0).merge(weights)
    assert merged.keys() == {"fc1.weight"}
    total = weights["fc1.weight"] + 3 * (weights["fc1.lora_B.weight"] @ weights["fc1.lora_A.weight"])
    torch.testing.assert_close(merged["fc1.weight"].norm(dim=1), weights["fc1.lora_magnitude_vector"])
    directions = torch.nn.functional.cosine_similarity(merged["fc1.weight"], total, dim=1)
    torch.testing.assert_close(directions, torch.ones(5))


def test_it_keeps_what_it_scales_beside_what_lora_keeps() -> None:
    """Each layer's output, and the lengths of its weight's rows."""
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    lora, dora = (predict(config.with_method(f"{name}(r=8)")).saved_bytes for name in ("lora", "dora"))
    assert dora - lora == 12 * 4 * (tokens * 3 * 384 + 3 * 384)
