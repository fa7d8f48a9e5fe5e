"""Adapters: where they stand, what is refused, what is left of them."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Adapter, parse_method
from bsr_explorer.prediction import predict, tape_of

CONFIG = Config("toy", 48, 5, 2, method="full")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Adapter()) == "adapter(width=64, mode='serial', scale=1.0)"
    assert str(Adapter(8, "parallel")) == "adapter(width=8, mode='parallel', scale=0.1)"
    assert parse_method("adapter(width=8, mode='parallel')") == Adapter(8, "parallel", 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adapter(width=0)", "width must be a whole number of at least 1"),
        ("adapter(mode='beside')", "unknown .*'beside'.*serial"),
        ("adapter(scale=-1)", "scale must be a number above 0"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("mode", "layers", "reads"),
    [
        ("serial", {"attn.proj", "mlp.fc2"}, {"blocks.1.attn.proj.out", "blocks.1.mlp.fc2.out"}),
        ("parallel", {"mlp.fc2"}, {"blocks.1.norm2.out"}),
    ],
)
def test_they_stand_where_their_papers_have_them(mode: str, layers: set[str], reads: set[str]) -> None:
    tape = tape_of(CONFIG.with_method(Adapter(8, mode)))
    down = [op for op in tape if op.block == 1 and op.name.endswith(".adapter.down")]
    assert {op.name for op in down} == {f"blocks.1.{layer}.adapter.down" for layer in layers}
    assert {name for op in down for name in op.reads} == reads


@pytest.mark.usefixtures("toy")
def test_they_stay_when_training_is_over() -> None:
    method = Adapter(8)
    assert method.at_inference == method
    full, adapted = (predict(CONFIG.with_method(how)).forward_flops for how in ("full", method))
    assert adapted - full == 2 * 2 * 10 * 4 * 2 * (2 * 32 * 8)  # 20 tokens, 4 blocks, two of two matrices
