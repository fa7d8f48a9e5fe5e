"""Training chosen blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Bsr, parse_method
from bsr_explorer.methods.blocks import Blocks, ends_of_thirds


def test_it_is_written_by_its_blocks_alone() -> None:
    assert str(parse_method("blocks(3, 7, 11)")) == "blocks(3, 7, 11)"
    assert str(parse_method("blocks(blocks=(7, 3), norm=False)")) == "blocks(3, 7, norm=False)"
    assert str(parse_method("blocks(blocks=())")) == "blocks(blocks=())"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blocks(3, 3)", "block 3 is named twice"),
        ("blocks(-1)", "-1 is no block index"),
        ("blocks(1, 'two')", "'two' is no block index"),
        ("blocks(1, head=2)", "head must be True or False"),
        ("blocks(1, blocks=(2,))", "argument 'blocks' is given twice"),
        ("blocks(1)+bitfit", "both choose which parameters train"),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(UserError, match="--method") as refused:
        parse_method(text)
    assert said in str(refused.value)


@given(st.sets(st.integers(0, 11)), st.booleans(), st.booleans())
def test_it_is_the_experiment_that_bsr_without_drops_is(blocks: set[int], head: bool, norm: bool) -> None:
    mine, known = Blocks(tuple(blocks), head, norm), Bsr(tuple(blocks), {}, head=head, norm=norm)
    assert Config(method=mine).key(12) == Config(method=known).key(12)


@pytest.mark.parametrize(("depth", "blocks"), [(12, (3, 7, 11)), (1, (0,)), (2, (0, 1)), (24, (7, 15, 23))])
def test_the_papers_choice_stretches_over_any_depth(depth: int, blocks: tuple[int, ...]) -> None:
    assert ends_of_thirds(depth) == blocks
