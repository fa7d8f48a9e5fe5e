"""Prompts: where they stand, and that nothing drops or averages them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Vpt, parse_method
from bsr_explorer.prediction import tape_of, tokens_by_block

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 2, method="vpt(tokens=3)")


def test_it_is_written_as_it_is_read() -> None:
    assert str(Vpt()) == "vpt(tokens=10)"
    assert parse_method("vpt(tokens=3)") == Vpt(3)


def test_other_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="tokens must be a whole number of at least 1"):
        parse_method("vpt(tokens=0)")


def test_they_enter_the_first_block_and_only_patches_are_dropped() -> None:
    assert tokens_by_block(CONFIG) == dict.fromkeys(range(4), (13, 13))
    dropped = tokens_by_block(CONFIG.with_method("vpt(tokens=3)+drop({1: 0.5}, fuse=False)"))
    assert dropped[1] == (13, 1 + 3 + 5)  # of 9 patches, 5


def test_another_architecture_is_refused() -> None:
    tape = replace(tape_of(CONFIG.with_method("full")), architecture="other")
    with pytest.raises(UserError, match="models of the architecture other take none"):
        Vpt().rewrite(tape)


def test_it_stays_when_training_is_over() -> None:
    assert Vpt(3).at_inference == Vpt(3)
