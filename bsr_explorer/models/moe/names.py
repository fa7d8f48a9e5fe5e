"""Which parameters of a model are those of mixtures of experts, by their names."""

from __future__ import annotations

from collections.abc import Iterable

PARTS = ("experts", "gate")
"""What a mixture is made of."""

_ROUTE = ".gate.route.weight"


def of_mixtures(parameters: Iterable[str]) -> dict[str, frozenset[str]]:
    """The parameters of the mixtures of a model, by part; of each part none, where the model has no mixture.

    Args:
        parameters: state-dict names.
    """
    names = list(parameters)
    layers = [name.removesuffix(_ROUTE) for name in names if name.endswith(_ROUTE)]
    whole = {name for name in names if name.startswith(tuple(f"{layer}." for layer in layers))}
    gates = {name for name in whole if name.startswith(tuple(f"{layer}.gate." for layer in layers))}
    return {"experts": frozenset(whole - gates), "gate": frozenset(gates)}
