"""Back Razor's arguments and what it stores."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import BackRazor, parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.storages import Narrow, Quantized, Rebuilt, Sparse


def test_defaults_are_the_papers() -> None:
    assert str(BackRazor()) == "backrazor(ratio=0.9)"
    assert parse_method("backrazor(ratio=.8, gelu='sparse')") == BackRazor(0.8, gelu="sparse")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("backrazor(ratio=1)", "ratio must be at least 0 and below 1"),
        ("backrazor(ratio=True)", "ratio must be at least 0 and below 1"),
        ("backrazor(values='fp8')", "fp16, bf16"),
        ("backrazor(gelu='none')", "dense16, dense"),
        ("backrazor(quantize=2)", "quantize must be None, 8 or 4"),
        ("backrazor(faithful=None)", "faithful must be True or False"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


def test_every_tensor_is_stored_as_published() -> None:
    razor = BackRazor(0.8)
    assert razor.stores("normed", 3, 12) == Sparse(0.8, "fp16")
    assert razor.stores("residual", 3, 12) == Sparse(0.8, "fp32")
    assert razor.stores("qkv", 3, 36) == Sparse(0.8, "fp16", parts=3)
    assert razor.stores("hidden", 3, 48) == Narrow("fp16")
    assert BackRazor(gelu="dense").stores("hidden", 3, 48) is None
    assert BackRazor(0.8, gelu="sparse").stores("hidden", 3, 48) == Sparse(0.8)


def test_ours_prunes_what_cannot_be_computed_again() -> None:
    ours, few = BackRazor(0.8, faithful=False), Quantized(4, 12, ema=0.0)
    assert ours.stores("attended", 3, 12) == ours.stores("gated", 3, 12) == Sparse(0.8)
    assert (
        ours.stores("normalized", 3, 12) == ours.stores("qkv", 3, 12) == ours.stores("hidden", 3, 12) == few
    )
    assert ours.stores("normed", 3, 12) == Rebuilt(few)


def test_what_has_no_say_makes_no_other_experiment() -> None:
    assert BackRazor(quantize=8, values="fp32").canonical(12) == BackRazor(quantize=8)
    assert BackRazor(faithful=False, gelu="sparse").canonical(12) == BackRazor(faithful=False)
    assert BackRazor(gelu="sparse").canonical(12) == BackRazor(gelu="sparse")


def test_bytes_of_a_block_in_closed_form() -> None:
    """DeiT-S at 0.9: kept values, a bit an element, and GELU's input in 16 bits."""
    batch, tokens, width, heads = 4, 197, 384, 6
    predicted = predict(Config("deit_s", batch_size=batch, method="backrazor(ratio=0.9)"))
    n = tokens * width

    def sparse(elements: int, size: int = 2) -> int:
        return (elements - int(0.9 * elements) + 1) * size + -(-elements // 8)

    image = (
        6 * sparse(n)
        + 2 * sparse(n, 4)
        + sparse(4 * n)
        + sparse(heads * tokens**2)
        + 4 * n * 2
        + 2 * 2 * tokens * 4
    )
    assert predicted.by_block()["5"]["saved"] == batch * image
