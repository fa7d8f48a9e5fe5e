"""From a configuration to numbers: a head alone, by hand; what a budget counts and holds; and no torch on the way."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_explorer import prediction as module
from bsr_explorer.config import ONLY_GPUS, QUANTILES, Config
from bsr_explorer.devices.gpus import CONTEXT
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import METHODS
from bsr_explorer.models.vit.architecture import PlainViT
from bsr_explorer.prediction import (
    MOST_IMAGES,
    counted_bytes,
    differs,
    geometry_of,
    is_published,
    largest_batch,
    over_time,
    predict,
    published_tape,
    steps_of,
    tape_of,
    tokens_by_block,
    trained_blocks,
)
from bsr_explorer.store.study import COUNTS

BSR = "bsr(blocks=(1, 3), keep={1: 0.5, 2: 0.5}, fuse=True)"
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


def test_a_predicted_peak_says_when_it_is_and_what_is_alive(probe: Ledger) -> None:
    assert probe.peak_is == "predicted"
    assert probe.peak is not None
    assert probe.peak.bytes == probe.peak_bytes == sum(probe.peak.alive.values())
    assert probe.peak.phase == "forward"
    assert probe.peak.alive["parameter"] == probe.parameter_bytes
    assert probe.peak.alive["input"] == probe.input_bytes
    assert probe.peak.alive["optimizer"] == probe.optimizer_bytes
    assert "gradient" not in probe.peak.alive


@pytest.mark.parametrize("method", ["full", "bsr", "last(k=3)", "checkpoint"])
def test_a_peak_holds_what_stands_and_not_all_that_is_held(method: str) -> None:
    predicted = predict(replace(PROBE, method=method, batch_size=16))
    stands = predicted.parameter_bytes + predicted.optimizer_bytes + predicted.input_bytes
    assert stands < predicted.peak_bytes < 2 * predicted.held_bytes


def test_a_budget_counts_one_of_three_things(probe: Ledger) -> None:
    assert counted_bytes(PROBE, "peak") == probe.peak_bytes
    assert counted_bytes(PROBE, "saved") == probe.saved_bytes
    inputs_of_norm_and_head = 2 * (17 + 1) * 192 * 4
    trained = 10 * 192 + 10
    frozen = sum(p.numel for p in tape_of(PROBE).parameters.values()) - trained
    assert counted_bytes(PROBE, "published") == inputs_of_norm_and_head + 4 * trained + frozen


def test_on_a_gpu_it_counts_what_is_reserved_unless_told_otherwise() -> None:
    there = replace(PROBE, device="cuda", gpu="a100")
    assert (PROBE.counts_by_default, there.counts_by_default) == ("peak", "reserved")
    assert counted_bytes(there, "reserved") == predict(there).reserved_bytes
    assert counted_bytes(there, "reserved") > counted_bytes(there, "peak") > counted_bytes(there, "saved")
    with pytest.raises(
        UserError, match="the device is cpu; choose peak, saved or published, or --device cuda"
    ):
        counted_bytes(PROBE, "reserved")


def test_a_device_holds_the_context_too() -> None:
    there = replace(PROBE, device="cuda", gpu="a100")
    said = predict(there)
    assert said.context_bytes == CONTEXT > 0
    assert counted_bytes(there, "device") == said.device_bytes == said.reserved_bytes + CONTEXT
    assert said.summary()["device_bytes"] == said.device_bytes
    here = predict(PROBE)
    assert here.device_bytes == here.context_bytes == 0
    assert "device_bytes" not in here.summary()
    with pytest.raises(UserError, match="device is what a process takes from a GPU, and the device is cpu"):
        counted_bytes(PROBE, "device")


def test_a_prediction_is_for_a_card() -> None:
    """Workspaces are larger on a Hopper, and attention's kernel in 16 bits is another one."""
    of = {card: predict(replace(PROBE, device="cuda", gpu=card)) for card in ("a100", "h100", "h200")}
    assert of["h100"].peak_bytes == of["h200"].peak_bytes > of["a100"].peak_bytes
    with pytest.raises(UserError, match="--gpu: a100 is a card for --device cuda, and the device is cpu"):
        replace(PROBE, gpu="a100")


def test_the_geometry_is_that_of_the_configuration() -> None:
    geometry = geometry_of(PROBE)
    assert (geometry.name, geometry.image_size, geometry.num_classes) == ("deit_t", 64, 10)


def test_the_tape_takes_batch_and_attention_from_the_configuration() -> None:
    tape = tape_of(Config("deit_t", image_size=64, batch_size=3, attention="math", method="full"))
    assert tape.tensors["images"].shape[0] == 3
    assert tape.op("blocks.0.attn", "attention").attrs["path"] == "math"


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_tape_is_of_one_micro_batch(micro_batches: int) -> None:
    config = Config("deit_t", image_size=64, batch_size=4, micro_batches=micro_batches)
    assert tape_of(config).tensors["images"].shape[0] == 4 // micro_batches
    assert published_tape(config).tensors["images"].shape[0] == 4


@pytest.mark.parametrize("changes", [{"micro_batches": 2}, {"precision": "bf16"}, {"precision": "amp_fp16"}])
def test_the_published_rule_counts_all_images_in_4_bytes(changes: dict[str, Any]) -> None:
    assert counted_bytes(replace(PROBE, **changes), "published") == counted_bytes(PROBE, "published")


def test_the_published_rule_is_for_plain_vision_transformers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(PlainViT):
        name = "other"
        published = False

    monkeypatch.setattr(module, "architecture_of", lambda model: Other())
    assert not is_published(PROBE)
    with pytest.raises(UserError, match=r"published has no rule for .*choose peak or saved"):
        counted_bytes(PROBE, "published")


def test_micro_batches_compute_as_much_and_save_less() -> None:
    whole, parts = (predict(replace(PROBE, batch_size=8, micro_batches=n, method="full")) for n in (1, 4))
    assert (parts.train_flops, parts.forward_flops) == (whole.train_flops, whole.forward_flops)
    assert parts.input_bytes == whole.input_bytes
    assert parts.saved_bytes < 0.3 * whole.saved_bytes


def test_16_bits_halve_what_is_all_in_them() -> None:
    wide, narrow = (predict(replace(PROBE, precision=name, method="full")) for name in ("fp32", "bf16"))
    assert 2 * narrow.parameter_bytes == wide.parameter_bytes
    assert 2 * narrow.gradient_bytes == wide.gradient_bytes
    assert narrow.train_flops == wide.train_flops
    mixed = predict(replace(PROBE, precision="amp_bf16", method="full"))
    assert (mixed.parameter_bytes, mixed.optimizer_bytes) == (wide.parameter_bytes, wide.optimizer_bytes)


# --- the largest batch ----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_the_largest_batch_fits_and_the_next_does_not(toy: str, draw: st.DataObject) -> None:
    micro_batches = draw.draw(st.sampled_from([1, 2, 3]))
    config = Config(
        toy,
        image_size=32,
        batch_size=micro_batches,
        micro_batches=micro_batches,
        method=draw.draw(st.sampled_from(["full", "linear", BSR, "last(k=2)+checkpoint", "bitfit"])),
        optimizer=draw.draw(st.sampled_from(["adamw", "sgd"])),
        precision=draw.draw(st.sampled_from(["fp32", "amp_bf16"])),
        device=draw.draw(st.sampled_from(["cpu", "cuda"])),
    )
    counts = draw.draw(st.sampled_from([c for c in sorted(COUNTS) if c not in ONLY_GPUS or config.caches]))
    least = counted_bytes(config, counts)
    budget = draw.draw(st.one_of(st.integers(least - 2, least + 2), st.integers(1, 10**8)))
    found = largest_batch(config, budget, counts)

    def size(batch: int) -> int:
        return counted_bytes(replace(config, batch_size=batch), counts)

    assert found % config.micro_batches == 0
    assert size(found + config.micro_batches) > budget
    assert not found or size(found) <= budget


ON_THE_CPU = [counts for counts in COUNTS if counts not in ONLY_GPUS]


@pytest.mark.parametrize("counts", ON_THE_CPU)
def test_the_largest_batch_is_exact_to_the_byte(counts: str) -> None:
    config = replace(PROBE, method="bsr", batch_size=1)
    size = counted_bytes(replace(config, batch_size=37), counts)
    assert [largest_batch(config, size + more, counts) for more in (-1, 0, 1)] == [36, 37, 37]


@pytest.mark.parametrize("counts", ON_THE_CPU)
def test_where_not_one_image_fits_the_largest_batch_is_0(counts: str) -> None:
    least = counted_bytes(replace(PROBE, batch_size=1), counts)
    assert largest_batch(PROBE, least - 1, counts) == 0
    assert largest_batch(PROBE, least, counts) >= 1


def test_where_not_one_image_a_micro_batch_fits_the_largest_batch_is_0() -> None:
    config = replace(PROBE, batch_size=4, micro_batches=4)
    least = predict(config).peak_bytes
    assert largest_batch(config, least - 1) == 0
    assert largest_batch(config, least) % 4 == 0


def test_the_batch_of_the_configuration_does_not_matter() -> None:
    assert len({largest_batch(replace(PROBE, batch_size=size), 10**8) for size in (1, 7, 500)}) == 1


def test_more_memory_never_holds_fewer_images() -> None:
    found = [largest_batch(replace(PROBE, method="full"), budget) for budget in range(10**8, 10**9, 10**8)]
    assert found == sorted(found)
    assert found[-1] > found[0] > 0


def test_what_seems_unlimited_has_an_end() -> None:
    assert largest_batch(PROBE, 10**18) >= MOST_IMAGES


def test_only_few_sizes_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def watched(config: Config, counts: str, quantile: float) -> int:
        asked.append(config.batch_size)
        return counted_bytes(config, counts, quantile)

    monkeypatch.setattr(module, "counted_bytes", watched)
    for method in ("full", "linear", "bsr", "checkpoint"):
        asked.clear()
        assert largest_batch(Config("deit_s", method=method), 20 * 10**9) > 100
        assert len(asked) < 12


# --- a share of the steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", QUANTILES)
@pytest.mark.parametrize("method", ["full+dropbp", "lisa(k=1)", "gradual", "full+dropbp(draw='count')"])
def test_a_share_of_the_steps_does_not_exceed_what_is_counted(method: str, counts: str, toy: str) -> None:
    config = replace(PROBE, model=toy, image_size=48, method=method)
    assert differs(config)
    steps = [
        (share, {"peak": costs.peak_bytes, "saved": costs.saved_bytes}[counts])
        for share, one in steps_of(config).expected
        for costs in [predict(one)]
    ]
    before = 0
    for quantile in (0.0, 0.1, 0.5, 0.9, 0.95, 1.0):
        counted = counted_bytes(config, counts, quantile)
        within = sum(share for share, size in steps if size <= counted)
        assert within >= quantile - 1e-9
        if quantile < 1:  # and as few bytes as do
            assert sum(share for share, size in steps if size < counted) < max(quantile, 1e-9)
        assert counted >= before
        before = counted
    assert before == counted_bytes(config, counts)
    assert counted_bytes(config, counts, 0.0) == min(size for _, size in steps)


def test_a_share_of_the_steps_holds_a_larger_batch() -> None:
    config = replace(PROBE, method="full+dropbp(rate=0.75)")
    budget = 150 * 10**6
    assert largest_batch(config, budget, "peak", 0.5) > largest_batch(config, budget)


@given(st.floats(0, 1))
@settings(max_examples=10)
def test_of_steps_that_are_alike_any_share_is_the_same(quantile: float) -> None:
    assert not differs(PROBE)
    assert counted_bytes(PROBE, "peak", quantile) == predict(PROBE).peak_bytes


# --- what is refused, and what it takes -----------------------------------------------------------------


def test_a_method_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="block 12 is out of range"):
        predict(Config("deit_t", image_size=64, method="bsr(blocks=(12,))"))


def test_everything_but_the_geometry_starts_without_torch() -> None:
    modules = """bsr_explorer bsr_explorer.cost.grid bsr_explorer.cost.peak bsr_explorer.cost.published
        bsr_explorer.cost.passes bsr_explorer.cost.optimizers bsr_explorer.models.lowering
        bsr_explorer.operations.kinds bsr_explorer.cost.step bsr_explorer.config bsr_explorer.ledger
        bsr_explorer.methods bsr_explorer.models.vit.geometry bsr_explorer.models.names bsr_explorer.models.vit.step
        bsr_explorer.prediction bsr_explorer.report.study.write bsr_explorer.store.provenance
        bsr_explorer.store.records bsr_explorer.store.study bsr_explorer.tape bsr_explorer.units"""
    code = f"import sys, {', '.join(modules.split())}; assert not {{'torch', 'timm'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what else follows from a configuration -------------------------------------------------------------


def test_tokens_are_those_that_enter_and_leave_a_block() -> None:
    config = Config(model="deit_s", batch_size=1, method="bsr")
    counts = tokens_by_block(config)
    assert list(counts) == list(range(12))
    assert [counts[block] for block in (0, 3, 4, 6, 9, 11)] == [
        *((197, 197), (197, 100), (100, 100), (100, 52), (52, 28), (28, 28))
    ]
    loose = tokens_by_block(config.with_method("bsr(fuse=False)"))
    assert (loose[3], loose[6], loose[9]) == ((197, 99), (99, 50), (50, 26))


@pytest.mark.parametrize(
    ("method", "blocks"),
    [("bsr", (3, 7, 11)), ("linear", ()), ("last(k=2)", (10, 11)), ("full", tuple(range(12)))],
)
def test_trained_blocks_are_those_with_a_parameter_that_trains(method: str, blocks: tuple[int, ...]) -> None:
    assert trained_blocks(Config(model="deit_s", batch_size=1, method=method)) == blocks


@pytest.mark.parametrize("method", METHODS)
def test_memory_over_a_step_goes_as_high_as_the_peak(method: str) -> None:
    config = Config(model="deit_t", image_size=64, batch_size=2, method=method)
    assert max(level.bytes for level in over_time(config)) == predict(config).peak_bytes
