"""What of a call may be packed."""

from __future__ import annotations

from bsr_explorer.storages.by_call import CALLS, Packs, place_of


def test_a_part_of_a_tensor_of_three_is_joined() -> None:
    assert place_of("operand", 20, 60) == "qkv"
    assert place_of("operand", 60, 60) == "operand"
    assert place_of("residual", 20, 60) == "residual"


def test_what_a_call_makes_is_packed_unless_it_is_small() -> None:
    packs = Packs(frozenset({0, 1}), CALLS["scaled_dot_product_attention"].least)
    given = [(2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4)]
    assert packs.makes((2, 3, 5, 4), given)
    assert packs.makes((6, 5, 4), given)
    assert not packs.makes((2, 3, 5), given)  # the log-sum-exp
    assert not packs.makes((5, 4), given)
    assert not Packs().makes((2, 3, 5, 4), given)  # nothing is asked for


def test_a_copy_is_known_by_its_shape() -> None:
    packs = Packs(frozenset({0}))
    assert packs.copied((2, 5, 4), [(2, 5, 4), (8, 4)]) == 0
    assert packs.copied((8, 4), [(2, 5, 4), (8, 4)]) is None
