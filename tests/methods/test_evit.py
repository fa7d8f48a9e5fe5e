"""EViT is a drop with one rate: the same tape, the same model, the same record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.methods import Evit, Full, parse_method
from bsr_explorer.methods.drop import Drop
from bsr_explorer.prediction import geometry_of, predict, tape_of, tokens_by_block
from tests.methods.interrupted import check_it_goes_on

DROP = "drop({3: 0.7, 6: 0.7, 9: 0.7}, fuse=True)"


def test_it_is_written_with_its_rate_first() -> None:
    assert str(parse_method("evit")) == "evit(0.7)"
    assert parse_method("evit(keep=0.5)") == Evit(0.5)


@pytest.mark.parametrize("beside", ["full", "last(k=2)", "bitfit", "blocks(3, 7)"])
def test_it_is_drop_with_fuse(beside: str) -> None:
    evit, drop = (Config("deit_t", 64, 10, 2, method=f"{beside}+{how}") for how in ("evit", DROP))
    assert evit.key(12) == drop.key(12)
    assert tape_of(evit).ops == tape_of(drop).ops
    assert predict(evit).rows == predict(drop).rows
    images = torch.randn(2, 3, 64, 64)
    mine, theirs = (build(config, seed=3).train()(images) for config in (evit, drop))
    assert torch.equal(mine, theirs)


def test_it_keeps_the_authors_tokens() -> None:
    """ceil(0.7 · 196) and the fused one beside the class token; ceil(0.7 · 139) and one; ceil(0.7 · 99) and one."""
    tokens = tokens_by_block(Config("deit_s", method="full+evit"))
    assert [*dict.fromkeys(leave for _, leave in tokens.values())] == [197, 140, 100, 72]


def test_what_keeps_every_token_is_nothing() -> None:
    assert Evit(1).canonical(12) == Full()
    assert Evit(1).at_inference is None
    assert Evit().canonical(12) == Drop({3: 0.7, 6: 0.7, 9: 0.7})


@pytest.mark.parametrize("rate", ["0", "1.1", "True", "'half'", "{3: 0.5}"])
def test_other_rates_are_refused(rate: str) -> None:
    with pytest.raises(UserError, match=r"evit\(keep=.*a keep rate must be above 0 and at most 1"):
        parse_method(f"evit({rate})")


def test_it_needs_a_class_token_and_is_the_only_one_that_drops() -> None:
    config = Config("vit_wee_patch16_reg1_gap_256", 64)
    assert parse_method("evit", geometry_of(config)) == Evit(1.0)
    with pytest.raises(UserError, match="the model has none"):
        predict(config.with_method("evit(0.7)"))
    with pytest.raises(UserError, match="both choose which tokens stay"):
        parse_method("bsr+evit")


@pytest.mark.usefixtures("toy")
def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    check_it_goes_on("last(k=3)+evit", tmp_path, epochs=2, after=(1, 7))
