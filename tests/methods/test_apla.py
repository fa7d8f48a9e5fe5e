"""APLA: how it is written, and what it keeps."""

from __future__ import annotations

from bsr_explorer.config import Config
from bsr_explorer.methods import Apla, parse_method
from bsr_explorer.prediction import predict


def test_it_is_written_as_it_is_read() -> None:
    assert str(Apla()) == "apla(r=8)"
    assert parse_method("apla(r=4)") == Apla(4)


def test_the_projections_input_costs_nothing_where_fused_attention_keeps_it() -> None:
    """However many rows train."""
    config = Config("deit_s", 112, 10, 4)
    one, many = (predict(config.with_method(Apla(r))).saved_bytes for r in (1, 384))
    assert one == many
    assert predict(config.with_method("bitfit")).saved_bytes >= one
