"""PaCA: how it is written, and what it keeps."""

from __future__ import annotations

from bsr_explorer.config import Config
from bsr_explorer.methods import Paca, parse_method
from bsr_explorer.prediction import counted_bytes, predict


def test_it_is_written_as_it_is_read() -> None:
    assert str(Paca()) == "paca(r=8)"
    assert str(Paca(4, ("fc2",))) == "paca(r=4, on=('fc2',))"
    assert parse_method("paca(r=4, on='fc2')") == Paca(4, ("fc2",))


def test_each_layer_keeps_the_channels_that_its_columns_read() -> None:
    """In closed form, beside what passing a gradient takes in any case, which is LoRA-FA's (of one number a token)."""
    config, tokens = Config("deit_s", 112, 10, 4), 4 * 50
    few, many = (predict(config.with_method(Paca(r))).saved_bytes for r in (4, 12))
    assert many - few == 12 * 4 * tokens * 8 * 4
    paca, lora = (
        predict(config.with_method(text)).saved_bytes
        for text in ("paca(r=8)", "lora(r=8, on=('qkv','proj','fc1','fc2'))")
    )
    assert paca < lora / 1.5


def test_the_paper_of_bsr_counts_it_like_any_choice_of_parameters() -> None:
    config = Config("deit_t", 64, 10, 2)
    paca, linear = (counted_bytes(config.with_method(text), "published") for text in ("paca", "linear"))
    assert paca > linear


def test_it_multiplies_no_more_than_the_model_does() -> None:
    config = Config("deit_s", 112, 10, 4)
    full, paca = (predict(config.with_method(text)).forward_flops for text in ("full", "paca"))
    assert full == paca
