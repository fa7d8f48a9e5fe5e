"""Mesa's arguments and what it stores."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Mesa, parse_method
from bsr_explorer.prediction import predict
from bsr_explorer.storages import Quantized, Rebuilt


def test_defaults_are_the_papers() -> None:
    assert str(Mesa()) == "mesa(bits=8, groups='heads', ema=0.9)"
    assert str(Mesa(faithful=False)) == "mesa(bits=8, groups='channels', ema=0.0, faithful=False)"
    assert parse_method(str(Mesa(faithful=False))) == Mesa(faithful=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mesa(bits=3)", "bits must be 8, 4 or 2"),
        ("mesa(bits=True)", "bits must be 8, 4 or 2"),
        ("mesa(groups='rows')", "groups must be 'heads', 'channels' or 'tensor'"),
        ("mesa(ema=1)", "ema must be at least 0 and below 1"),
        ("mesa(ema='much')", "ema must be at least 0 and below 1"),
        ("mesa(faithful=1)", "faithful must be True or False"),
    ],
)
def test_other_arguments_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


def test_every_tensor_has_groups_as_published() -> None:
    mesa = Mesa()
    assert mesa.stores("residual", 3, 12) == Quantized(8, 3, -1, 0.9)
    assert mesa.stores("qkv", 3, 36) == Quantized(8, 9, -1, 0.9)  # queries, keys and values by head
    assert mesa.stores("softmax", 3, 1) == Quantized(8, 3, 1, 0.9)
    assert mesa.stores("normalized", 3, 12) is None


def test_ours_computes_again_what_linear_layers_read() -> None:
    ours = Mesa(4, faithful=False)
    channels = Quantized(4, 12, -1, 0.0)
    assert ours.stores("normed", 3, 12) == ours.stores("activated", 3, 12) == Rebuilt(channels)
    assert ours.stores("normalized", 3, 12) == ours.stores("attended", 3, 12) == channels
    assert ours.stores("residual", 3, 12) is None


def test_bytes_of_a_block_in_closed_form() -> None:
    """DeiT-S: 16 elements a channel of a token and the softmax, of a byte each, and what is left as it is."""
    batch, tokens, width, heads = 4, 197, 384, 6
    config = Config("deit_s", batch_size=batch, method="mesa")
    n, statistics = batch * tokens * width, 2 * 2 * batch * tokens * 4
    ranges = 2 * 4 * (heads * 7 + 3 * heads + heads)  # of 7 tensors by head, of q, k and v, of the softmax
    assert (
        predict(config).by_block()["5"]["saved"] == 16 * n + batch * heads * tokens**2 + statistics + ranges
    )
