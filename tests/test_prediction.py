"""From a configuration to numbers: a head alone, by hand; what a budget counts; and no torch on the way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.prediction import counted_bytes, geometry_of, predict, tape_of

PROBE = Config("deit_t", image_size=64, num_classes=10, batch_size=2, method="linear")


@pytest.fixture(scope="module")
def probe() -> Ledger:
    """A linear probe of 2 images of 17 tokens, 192 wide, 10 classes."""
    return predict(PROBE)


def test_a_head_keeps_the_norms_output_and_the_loss(probe: Ledger) -> None:
    tokens, log_softmax, total_weight = 2 * 17 * 192 * 4, 2 * 10 * 4, 4
    assert probe.saved_bytes == tokens + log_softmax + total_weight


def test_a_head_has_its_gradient_and_state_and_no_other(probe: Ledger) -> None:
    head = (10 * 192 + 10) * 4
    assert probe.gradient_bytes == head
    assert probe.optimizer_bytes == 2 * head + 2 * 4  # two moments, and a step count each for two tensors


def test_a_batch_is_images_and_64_bit_labels(probe: Ledger) -> None:
    assert probe.input_bytes == 2 * 3 * 64 * 64 * 4 + 2 * 8


def test_a_heads_backward_is_its_weights_gradient(probe: Ledger) -> None:
    assert probe.flops_of("backward") == 2 * 2 * 192 * 10


def test_a_predicted_peak_is_called_an_estimate(probe: Ledger) -> None:
    assert probe.peak_is == "estimate"


def test_a_budget_counts_one_of_three_things(probe: Ledger) -> None:
    assert counted_bytes(PROBE, "peak") == probe.held_bytes
    assert counted_bytes(PROBE, "saved") == probe.saved_bytes
    inputs_of_norm_and_head = 2 * (17 + 1) * 192 * 4
    trained = 10 * 192 + 10
    frozen = sum(p.numel for p in tape_of(PROBE).parameters.values()) - trained
    assert counted_bytes(PROBE, "published") == inputs_of_norm_and_head + 4 * trained + frozen


def test_the_geometry_is_that_of_the_configuration() -> None:
    geometry = geometry_of(PROBE)
    assert (geometry.name, geometry.image_size, geometry.num_classes) == ("deit_t", 64, 10)


def test_the_tape_takes_batch_and_attention_from_the_configuration() -> None:
    tape = tape_of(Config("deit_t", image_size=64, batch_size=3, attention="math", method="full"))
    assert tape.tensors["images"].shape[0] == 3
    assert tape.op("blocks.0.attn", "attention").attrs["path"] == "math"


def test_a_method_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="block 12 is out of range"):
        predict(Config("deit_t", image_size=64, method="bsr(blocks=(12,))"))


def test_everything_but_the_geometry_starts_without_torch() -> None:
    modules = """bsr_explorer bsr_explorer.cost.grid bsr_explorer.cost.peak bsr_explorer.cost.published
        bsr_explorer.cost.rules bsr_explorer.cost.step bsr_explorer.config bsr_explorer.ledger
        bsr_explorer.methods bsr_explorer.models.geometry bsr_explorer.models.names bsr_explorer.models.vit
        bsr_explorer.prediction bsr_explorer.report.report bsr_explorer.store.provenance
        bsr_explorer.store.records bsr_explorer.store.study bsr_explorer.tape bsr_explorer.units"""
    code = f"import sys, {', '.join(modules.split())}; assert not {{'torch', 'timm'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
