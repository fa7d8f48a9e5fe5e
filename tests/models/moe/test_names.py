"""Names of the parameters of mixtures."""

from __future__ import annotations

from bsr_explorer.models.architecture import build_model
from bsr_explorer.models.moe.names import of_mixtures


def test_experts_and_gate_are_told_apart(toy: None) -> None:
    model = build_model("moe_vit(toy, blocks=(1, 3), experts=4, top=2)", 48, 10)
    parts = of_mixtures(name for name, _ in model.named_parameters())
    layers = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    assert parts["experts"] == {f"blocks.{block}.mlp.{name}" for block in (1, 3) for name in layers}
    gates = ("gate.route.weight", "gate.noise.weight")
    assert parts["gate"] == {f"blocks.{block}.mlp.{name}" for block in (1, 3) for name in gates}


def test_a_dense_model_has_none() -> None:
    assert of_mixtures(["blocks.1.mlp.fc1.weight", "blocks.11.mlp.gate.weight"]) == {
        "experts": frozenset(),
        "gate": frozenset(),
    }
