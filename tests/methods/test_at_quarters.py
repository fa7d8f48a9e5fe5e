"""One rate at each quarter of the depth: what is refused, and what a search varies."""

from __future__ import annotations

import pytest

from bsr_explorer.errors import UserError
from bsr_explorer.methods import METHODS, parse_method
from bsr_explorer.methods.at_quarters import RATES, AtQuarters
from bsr_explorer.models.vit.geometry import KNOWN

NAMES = [name for name, method in METHODS.items() if issubclass(method, AtQuarters)]


def test_two_methods_are_so() -> None:
    assert NAMES == ["evit", "adapler"]


@pytest.mark.parametrize("name", [*NAMES, "sparse_tuning"])
@pytest.mark.parametrize("rate", [0, 1.5, -0.5, "half", True])
def test_what_is_no_rate_is_refused_by_the_methods_own_name(name: str, rate: object) -> None:
    with pytest.raises(UserError, match=rf"^--method: {name}\(keep={rate!r}\): a keep rate must be above 0"):
        parse_method(f"{name}(keep={rate!r})")


@pytest.mark.parametrize("name", NAMES)
def test_it_stays_where_it_drops_tokens(name: str) -> None:
    assert parse_method(f"{name}(0.6)").at_inference == parse_method(f"{name}(0.6)")
    assert parse_method(f"{name}(1.0)").at_inference is None
    (axis,) = METHODS[name].axes(KNOWN["deit_tiny_patch16_224"])
    assert tuple(axis.values()) == RATES
