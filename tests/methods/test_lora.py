"""LoRA: against its own formula, and what is refused."""

from __future__ import annotations

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Lora, parse_method
from bsr_explorer.prediction import predict

pytestmark = pytest.mark.usefixtures("toy")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Lora()) == "lora(r=8, on=('qkv',))"
    assert str(Lora(4, "fc2", 16)) == "lora(r=4, on=('fc2',), alpha=16.0)"  # type: ignore[arg-type]
    assert parse_method("lora(on=('fc2', 'qkv'), r=2)") == Lora(2, ("qkv", "fc2"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora(r=0)", r"lora\(r=0\): r must be a whole number of at least 1"),
        ("lora(r=True)", "r must be a whole number"),
        ("lora_fa(r=1.5)", r"lora_fa\(r=1.5\): r must be a whole number"),
        ("lora(alpha=0)", "alpha must be a number above 0"),
        ("lora(alpha=1e400)", "alpha must be a number above 0"),
        ("lora(alpha='much')", "alpha must be a number above 0"),
        ("lora(on=('keys',))", "unknown .*'keys'.*qkv"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


def test_a_rank_beyond_the_matrix_is_refused_before_anything_runs() -> None:
    says = r"blocks\.0\.attn\.qkv has a matrix of 96 x 32, so r must be 1 to 32"
    with pytest.raises(UserError, match=says):
        predict(Config("toy", 48, 5, 2, method="lora(r=33)"))
    predict(Config("toy", 48, 5, 2, method="lora(r=32)"))


def test_an_update_is_scaled_and_added_to_its_weight() -> None:
    lora, generator = Lora(2, ("fc1",), 6.0), torch.Generator().manual_seed(0)
    names = {"weight": (5, 4), "lora_A.weight": (2, 4), "lora_B.weight": (5, 2), "bias": (5,)}
    weights = {f"fc1.{name}": torch.randn(shape, generator=generator) for name, shape in names.items()}
    merged = lora.merge(weights)
    assert merged.keys() == {"fc1.weight", "fc1.bias"}
    expected = weights["fc1.weight"] + 3 * weights["fc1.lora_B.weight"] @ weights["fc1.lora_A.weight"]
    torch.testing.assert_close(merged["fc1.weight"], expected)


def test_fewer_parameters_do_not_mean_less_than_its_storage_rules_say() -> None:
    """Its first matrix keeps the layer's input; LoRA-FA's does not, and keeps r numbers a token instead."""
    config = Config("deit_s", 112, 10, 4)
    tokens = 4 * (49 + 1)
    lora, frozen = (predict(config.with_method(f"{name}(r=8)")).saved_bytes for name in ("lora", "lora_fa"))
    assert lora - frozen == 12 * tokens * 384 * 4
