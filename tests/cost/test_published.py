"""The accounting of the BSR paper: its rule by hand, and the figures of its authors' own profiler."""

from __future__ import annotations

import pytest

from bsr_explorer.config import Config
from bsr_explorer.cost.published import (
    activation_bytes_per_image,
    block_activation_bytes,
    parameter_bytes,
    total_bytes,
)
from bsr_explorer.methods import Bsr
from bsr_explorer.models.base import Selection
from bsr_explorer.models.vit.reading import geometry
from bsr_explorer.models.vit.step import block_tape, drop_tokens
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.tape import Parameter, Tape

MIB = 2**20


@pytest.mark.parametrize(("model", "full", "bsr"), [("vit_b", 133.29, 21.84), ("deit_s", 66.93, 10.92)])
def test_activations_of_an_image(model: str, full: float, bsr: float) -> None:
    for method, mib in (("full", full), ("bsr", bsr)):
        tape = tape_of(Config(model, method=method))
        assert round(activation_bytes_per_image(tape) / MIB, 2) == mib


@pytest.mark.parametrize(("model", "full", "bsr"), [("vit_b", 4592.5, 841.4), ("deit_s", 2224.4, 385.3)])
def test_totals_of_a_batch_of_32_at_10_classes(model: str, full: float, bsr: float) -> None:
    for method, mib in (("full", full), ("bsr", bsr)):
        tape = tape_of(Config(model, batch_size=32, num_classes=10, method=method))
        assert round(total_bytes(tape) / MIB, 1) == mib


@pytest.mark.parametrize(("model", "full", "bsr"), [("vit_b", 17.56, 8.82), ("deit_s", 4.60, 2.31)])
def test_multiply_adds_of_a_forward_pass(model: str, full: float, bsr: float) -> None:
    for method, gmacs in (("full", full), ("bsr", bsr)):
        step = predict(Config(model, batch_size=1, num_classes=1000, method=method))
        assert round(step.forward_flops / 2e9, 2) == gmacs


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    ("trains", "live", "before", "after"), [(True, True, 6, 10), (True, False, 6, 10), (False, True, 3, 4)]
)
def test_a_block_by_the_papers_rule(
    trains: bool, live: bool, before: int, after: int, dropping: bool
) -> None:
    deit = geometry("deit_s", 224)
    tape = block_tape(deit, 5, 197, "fused")
    if dropping:
        tape = drop_tokens(tape, 0, Selection(0.5, fuse=True, faithful=True))
    n1, n2 = 197 * 384, (100 if dropping else 197) * 384
    elements = before * n1 + 6 * 197 * 197 + after * n2
    assert block_activation_bytes(tape, 0, trains, live) == 4 * elements


def test_a_frozen_block_below_what_trains_counts_nothing() -> None:
    tape = block_tape(geometry("deit_s", 224), 5, 197, "fused")
    assert block_activation_bytes(tape, 0, trains=False, live=False) == 0


def test_what_trains_counts_32_bits_and_the_rest_8() -> None:
    parameters = {"w": Parameter("w", (4, 3), None), "v": Parameter("v", (5,), None, trains=False)}
    assert parameter_bytes(Tape((), parameters, ())) == 4 * 12 + 5


def test_a_head_alone_counts_the_inputs_of_norm_and_head() -> None:
    tape = tape_of(Config("deit_t", 64, method="linear"))
    assert activation_bytes_per_image(tape) == 4 * (17 * 192 + 192)


def test_activations_of_an_image_do_not_depend_on_the_batch() -> None:
    sizes = {
        activation_bytes_per_image(tape_of(Config("deit_t", 64, batch_size=batch, method=Bsr())))
        for batch in (1, 2, 32)
    }
    assert len(sizes) == 1


def test_the_attention_path_does_not_matter_to_the_rule() -> None:
    fused, math = (tape_of(Config("deit_t", 64, attention=path)) for path in ("fused", "math"))
    assert total_bytes(fused) == total_bytes(math)
