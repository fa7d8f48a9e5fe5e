"""Prompts: where they stand, and that nothing drops or averages them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Vpt, parse_method
from bsr_explorer.prediction import predict, tape_of, tokens_by_block

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="vpt(tokens=3)")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Vpt()) == "vpt(tokens=10)"
    assert parse_method("vpt(tokens=3)") == Vpt(3)
    assert str(Vpt(3, True)) == "vpt(tokens=3, deep=True)"
    assert parse_method("vpt(tokens=3, deep=True)") == Vpt(3, True)


def test_other_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="tokens must be a whole number of at least 1"):
        parse_method("vpt(tokens=0)")
    with pytest.raises(UserError, match="deep must be True or False"):
        parse_method("vpt(deep=2)")


def test_they_enter_the_first_block_and_only_patches_are_dropped() -> None:
    assert tokens_by_block(CONFIG) == dict.fromkeys(range(4), (13, 13))
    dropped = tokens_by_block(CONFIG.with_method("vpt(tokens=3)+drop({1: 0.5}, fuse=False)"))
    assert dropped[1] == (13, 1 + 3 + 5)  # of 9 patches, 5


def test_deep_they_take_the_place_of_one_another() -> None:
    config = CONFIG.with_method("vpt(tokens=3, deep=True)+drop({1: 0.5}, fuse=False)")
    assert tokens_by_block(config) == tokens_by_block(
        CONFIG.with_method("vpt(tokens=3)+drop({1: 0.5}, fuse=False)")
    )
    own = {name: p.shape for name, p in tape_of(config).parameters.items() if name.endswith("prompt")}
    assert own == dict.fromkeys(
        ["norm_pre.prompt", *(f"blocks.{block}.prompt" for block in (1, 2, 3))], (1, 3, 32)
    )


def test_deep_prompts_take_no_more_than_shallow_ones_but_for_themselves() -> None:
    """Nothing of them is kept for the backward pass, and nothing is multiplied."""
    shallow, deep = (predict(CONFIG.with_method(f"vpt(tokens=3, deep={d})")) for d in (False, True))
    assert deep.saved_bytes == shallow.saved_bytes
    assert deep.train_flops == shallow.train_flops
    assert deep.gradient_bytes - shallow.gradient_bytes == 3 * 3 * 32 * 4


def test_another_architecture_is_refused() -> None:
    tape = replace(tape_of(CONFIG.with_method("full")), architecture="other")
    with pytest.raises(UserError, match="models of the architecture other take none"):
        Vpt().rewrite(tape)


def test_it_stays_when_training_is_over() -> None:
    assert Vpt(3).at_inference == Vpt(3)
    assert Vpt(3, True).at_inference == Vpt(3, True)
