"""Layers put together, and a summand that is opened: what is kept, computed and made on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.cost.step import Recorded
from bsr_explorer.tape import Op, Parameter, Tape, Tensor

Changes = list[tuple[str, int]]
Passes = Callable[..., tuple[Changes, Changes]]
"""The fixture of that name."""


def _tape(layers: int, tokens: int = 6, channels: int = 4) -> Tape:
    """Shallow layers z0, z1, … and a deep one, each (1, tokens, channels)."""
    names = [*(f"z{number}" for number in range(layers)), "deep"]
    inputs = tuple(Tensor(name, (1, tokens, channels), name) for name in names)
    parameters = {"w": Parameter("w", (channels,), 0), "b": Parameter("b", (1,), 0)}
    op = Op("sum", "aggregate", 0, tuple(names), "out", {"weight": "w", "bias": "b"})
    return Tape(inputs, parameters, (op,))


@given(layers=st.integers(0, 5), tokens=st.integers(1, 7), channels=st.integers(1, 9))
def test_flops_are_those_of_its_products(layers: int, tokens: int, channels: int) -> None:
    """Of every layer with a vector a token; of cosines, one for each layer."""
    found: Counter[str] = Counter()
    for _, kind, count in Recorded.of(_tape(layers, tokens, channels), live_inputs=True).computed():
        found[kind] += count
    product = 2 * tokens * layers * channels
    assert found["forward"] == product * layers + 2 * product
    assert found["backward"] == 2 * product * layers + 3 * product


def test_layers_are_kept_as_one_with_the_deep_one_and_the_result() -> None:
    saved = [(name, size) for _, _, name, size in Recorded.of(_tape(3), live_inputs=True).saved()]
    assert saved == [("sum:layers", 3 * 96), ("deep", 96), ("out", 96)]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_all_that_is_made_on_the_way_is_let_go(passes: Passes, layers: int) -> None:
    forward, backward = passes(_tape(layers))
    left = Counter[str]()
    for name, change in (*forward, *backward):
        left[name] += change
    gradients = {f"gradient {number + 2} of z{number}": 96 for number in range(layers)}
    expected = {"gradient of w": 16, "gradient of b": 4, "gradient 1 of deep": 96, **gradients}
    assert {name: size for name, size in left.items() if name.startswith("gradient ")} == {
        **expected,
        "gradient from above": -96,
    }
    assert not any(size for name, size in left.items() if name.startswith("sum:"))


def _opened(narrow: bool) -> Tape:
    """A constant c and y (2, 5) → c opened, and y; y in 16 bits or not."""
    inputs = (
        Tensor("c", (2, 5), "c", role="input"),
        Tensor("y", (2, 5), "y", "bf16" if narrow else "fp32"),
    )
    op = Op("open", "add_opened", 0, ("c", "y"), "z", {"gate": "g"})
    return Tape(inputs, {"g": Parameter("g", (1,), 0)}, (op,))


@pytest.mark.parametrize("narrow", [False, True])
def test_a_gradient_is_handed_on_or_cast(passes: Passes, narrow: bool) -> None:
    tape = _opened(narrow)
    assert tape.tensors["z"].dtype == "fp32"
    _, backward = passes(tape)
    made = [name for name, change in backward if change > 0]
    cast = ["gradient 1 of y"] if narrow else []
    assert made == ["open:product", "open:sum", "open:share", "gradient of g", *cast]
