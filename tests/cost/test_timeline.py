"""What stands before a step, tensor by tensor. (Of the step itself: ``test_peak`` and ``test_passes``.)"""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.cost.optimizers import OPTIMIZERS
from bsr_explorer.cost.timeline import standing, standing_rows
from bsr_explorer.prediction import tape_of


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("implementation", ["loop", "fused"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_add_up_to_the_rows(optimizer: str, implementation: str, device: str) -> None:
    """On a GPU the counts of steps, 4 bytes a parameter, lie on the CPU, unless the implementation is fused."""
    config = Config(
        "deit_t",
        64,
        batch_size=2,
        method="last(k=1)",
        optimizer=optimizer,
        implementation=implementation,
        device=device,
    )
    tape, setup = tape_of(config), config.setup
    rows = sum(row.bytes for row in standing_rows(tape, setup))
    tensors = [*standing(tape, setup)]
    elsewhere = optimizer == "adamw" and implementation == "loop" and device == "cuda"
    counts = 4 * sum(p.trains for p in tape.parameters.values()) if elsewhere else 0
    assert sum(size for *_, size in tensors) == rows - counts
    assert len({name for name, *_ in tensors}) == len(tensors)


def test_a_gradient_scaler_has_two_numbers() -> None:
    config = Config("deit_t", 64, batch_size=2, method="linear", precision="amp_fp16", device="cuda")
    named = {name: size for name, _, size in standing(tape_of(config), config.setup)}
    assert [named["scale"], named["steps since it grew"]] == [4, 4]
