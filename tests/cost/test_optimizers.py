"""What optimisers keep and allocate, by hand."""

from __future__ import annotations

import pytest

from bsr_explorer.cost.optimizers import IMPLEMENTATIONS, OPTIMIZERS, groups
from bsr_explorer.tape import Parameter

BIG, SMALL = Parameter("fc.weight", (384, 384), 0), Parameter("fc.bias", (384,), 0)
HALF = Parameter("fc.weight", (384, 384), 0, dtype="bf16")


@pytest.mark.parametrize(
    ("optimizer", "big", "small", "half"),
    [
        ("sgd", 0, 0, 0),
        ("sgd_momentum", 4 * 384**2, 4 * 384, 2 * 384**2),
        ("adamw", 8 * 384**2 + 4, 8 * 384 + 4, 4 * 384**2 + 4),
        ("adamw_8bit", 299_520, 8 * 384, 299_520),
    ],
)
def test_state(optimizer: str, big: int, small: int, half: int) -> None:
    assert [OPTIMIZERS[optimizer].state_bytes(p) for p in (BIG, SMALL, HALF)] == [big, small, half]


def _highest(optimizer: str, implementation: str, *trained: Parameter) -> int:
    level = most = 0
    for change, _ in OPTIMIZERS[optimizer].step(trained, implementation, 8):
        level += change
        most = max(most, level)
    assert level == 0
    return most


def test_a_loop_holds_a_root_and_two_denominators_at_most() -> None:
    assert _highest("adamw", "loop", BIG) == 2 * BIG.bytes + 8
    assert _highest("adamw", "loop", BIG, BIG) == 3 * BIG.bytes + 8
    assert _highest("adamw", "loop", BIG, SMALL) == 2 * BIG.bytes + 8


def test_lists_hold_a_denominator_of_every_parameter() -> None:
    assert _highest("adamw", "foreach", BIG, SMALL) == BIG.bytes + SMALL.bytes + 8


@pytest.mark.parametrize("implementation", ["loop", "foreach"])
def test_plain_descent_is_in_place(implementation: str) -> None:
    assert _highest("sgd", implementation, BIG, SMALL) == 0
    number = 8 if implementation == "loop" else 0  # the momentum
    assert _highest("sgd_momentum", implementation, BIG, SMALL) == number


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fused_step_allocates_nothing(optimizer: str) -> None:
    assert _highest(optimizer, "fused", BIG, SMALL) == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_a_step_takes_it_gives_back(optimizer: str, implementation: str) -> None:
    _highest(optimizer, implementation, BIG, SMALL, HALF)


def test_only_an_8_bit_optimiser_shares_something() -> None:
    shared = {name: optimizer.shared_bytes([BIG]) for name, optimizer in OPTIMIZERS.items()}
    assert shared == {"sgd": 0, "sgd_momentum": 0, "adamw": 0, "adamw_8bit": 2048}


def test_vectors_and_embeddings_are_a_group_of_their_own() -> None:
    position = Parameter("pos_embed", (1, 197, 384), None)
    assert groups([BIG, SMALL, position]) == [[BIG], [SMALL, position]]
    assert groups([BIG, SMALL, position], [BIG.name]) == [[BIG, SMALL], [position]]
    assert groups([BIG]) == [[BIG]]
    assert groups([]) == []
