"""What of a step is not counted."""

from __future__ import annotations

from dataclasses import replace

from bsr_explorer.config import Config
from bsr_explorer.cost.bounds import unknown_of
from bsr_explorer.cost.step import Recorded
from bsr_explorer.prediction import tape_of

TURNED = Config("tests.models.traced.small:turned", 16, 10, 3, method="full", unknown="bound")


def test_calls_that_are_alike_are_one_and_count_in_each_pass() -> None:
    recorded = Recorded.of(tape_of(TURNED))
    (once,) = unknown_of(recorded)
    (thrice,) = unknown_of(recorded, 3)
    assert (once.operation, once.times, thrice.times) == ("Turning", 1, 3)
    assert once.bytes == 2 * 3 * 8 * 16 * 4  # what it is given, and what it makes
    assert once.figures == ("train_flops", "peak_bytes")


def test_a_tape_without_calls_lacks_nothing_on_any_device() -> None:
    for device in ("cpu", "cuda"):
        config = Config("deit_t", 48, 10, 2, method="full", device=device, unknown="bound")
        assert unknown_of(Recorded.of(tape_of(config))) == ()


def test_kernels_of_a_gpu_are_unknown_where_calls_were_traced() -> None:
    config = replace(TURNED, model="convnext_atto", image_size=32, device="cuda", gpu="h100")
    (kernels,) = unknown_of(Recorded.of(tape_of(config)))
    assert kernels.operation == "kernels of CUDA" and kernels.figures == ("peak_bytes",)
