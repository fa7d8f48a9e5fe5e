"""SPT: which entries it chooses, when, and that a training goes on with them; what it costs, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.phases import Phases
from bsr_explorer.measurement.peak import highest_on_cpu
from bsr_explorer.methods import Spt, parse_method
from bsr_explorer.prediction import predict, tape_of
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import Step, image_dtype, in_precision
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, 5, 8, method="spt")

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def _batches(count: int = 2) -> Batches:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 8, 3, 48, 48, generator=generator)
    labels = torch.randint(5, (count, 8), generator=generator)
    return list(zip(images, labels, strict=True))


def _looked(config: Config, batches: Batches) -> Step:
    """A step of which the method has looked at batches."""
    rules = recipe("short")
    step = make_step(build(config, seed=3).train(), config, rules)
    step.changes = Phases(config, rules)
    step.changes.begin(step, lambda: batches)
    return step


def _entries(model: nn.Module) -> dict[str, set[int]]:
    """By layer, which entries train."""
    buffers = dict(model.named_buffers())
    return {
        name.removesuffix(".index"): set(buffers[name].tolist())
        for name in buffers
        if name.endswith(".index")
    }


# --- how it is written ------------------------------------------------------------------------------------


def test_it_is_written_as_it_is_read() -> None:
    assert str(Spt()) == "spt(share=0.005)"
    assert parse_method("spt(share=0.02, batches=4)") == Spt(0.02, 4)
    assert str(Spt({"fc2": 0.1, "qkv": 1})) == "spt(share={'qkv': 1.0, 'fc2': 0.1})"
    assert parse_method(str(Spt({"fc2": 0.1, "qkv": 1}))) == Spt({"qkv": 1.0, "fc2": 0.1})


def test_one_share_of_all_layers_is_one_number() -> None:
    assert Spt({"fc2": 0.1, "qkv": 0.1, "proj": 0.1, "fc1": 0.1}) == Spt(0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spt(share=0)", "a share must be above 0 and at most 1"),
        ("spt(share=1.5)", "a share must be above 0 and at most 1"),
        ("spt(share='some')", "a share must be above 0 and at most 1"),
        ("spt(share={'qkv': True})", "a share must be above 0 and at most 1"),
        ("spt(share={'key': 0.1})", "unknown.*'key'.*qkv"),
        ("spt(share={})", "must name at least one layer of qkv, proj, fc1, fc2"),
        ("spt(batches=0)", "batches must be a whole number of at least 1"),
    ],
)
def test_other_shares_are_refused_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_method(text)


# --- what it chooses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "amp_fp16"])
@pytest.mark.parametrize("beside", ["", "+checkpoint"])
def test_the_entries_of_the_largest_squared_gradients_train(precision: str, beside: str) -> None:
    """As autograd gives them for the plain model, batch by batch; exactly in fp32."""
    config = replace(CONFIG, method=f"spt(share=0.02){beside}", precision=precision)
    chosen = _entries(_looked(config, _batches()).model)
    plain = build(config.with_method("full"), seed=3).train()
    sums = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for images, labels in _batches():
        plain.zero_grad()
        F.cross_entropy(plain(images[:4]), labels[:4]).backward()
        for name, p in plain.named_parameters():
            assert p.grad is not None
            sums[name] += p.grad**2
    assert len(chosen) == 4 * 4
    for layer, entries in chosen.items():
        best = set(sums[f"{layer}.weight"].flatten().topk(len(entries)).indices.tolist())
        assert len(entries & best) >= (0.98 if precision == "fp32" else 0.6) * len(best)


def test_looking_changes_nothing_else() -> None:
    """Neither what the model computes, nor a gradient, nor the optimiser."""
    images, _ = _batches()[0]
    step = _looked(CONFIG, _batches())
    with torch.no_grad():
        assert torch.equal(step.model(images), build(CONFIG, seed=3)(images))
    assert all(p.grad is None for p in step.model.parameters())
    assert not step.optimizer.state
    for module in step.model.modules():
        assert getattr(module, "seen", None) is None


def test_what_goes_wrong_while_it_looks_leaves_the_choice_as_it_was() -> None:
    rules = recipe("short")
    step = make_step(build(CONFIG, seed=3), CONFIG, rules)
    before, phases = _entries(step.model), Phases(CONFIG, rules)

    def broken() -> Any:
        yield _batches()[0]
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        phases.begin(step, broken)
    assert _entries(step.model) == before
    assert all(getattr(module, "seen", None) is None for module in step.model.modules())


def test_gradients_of_all_entries_are_those_of_the_weights() -> None:
    (images, labels), found = _batches()[0], {}
    for method in ("full", "spt(share=1)"):
        model = build(CONFIG.with_method(method), seed=3).train()
        F.cross_entropy(model(images), labels).backward()
        found[method] = {name: p.grad for name, p in model.named_parameters()}
    for name, gradient in found["spt(share=1)"].items():
        if name.endswith(".entries"):
            whole = found["full"][name.replace(".entries", ".weight")]
            assert gradient is not None and whole is not None
            torch.testing.assert_close(gradient, whole.flatten(), rtol=1e-6, atol=1e-7)


# --- what it costs ----------------------------------------------------------------------------------------


def test_bytes_in_closed_form() -> None:
    """What is saved is what full fine-tuning saves but for norms' outputs and biases; state is of the entries alone."""
    config = Config("deit_s", 112, 10, 4)
    tape = tape_of(config.with_method("spt(share=0.01)"))
    entries = {name: p for name, p in tape.parameters.items() if name.endswith(".entries")}
    width = 384
    of_a_block = [round(0.01 * many * width * width) for many in (3, 1, 4, 4)]
    assert [p.numel for p in entries.values()] == 12 * of_a_block
    full, spt = (predict(config.with_method(text)) for text in ("full", "spt(share=0.01)"))
    head = 10 * width + 10
    assert spt.gradient_bytes == 4 * (12 * sum(of_a_block) + head)
    patches = 4 * 49 * width * 4  # the first block's norm runs without a graph, and its input is not kept
    assert spt.saved_bytes > 0.97 * (full.saved_bytes - 2 * patches)
    assert spt.peak_bytes < full.peak_bytes


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
@pytest.mark.parametrize(("batch", "rounds"), [(64, (1, 1)), (8, (1, 3)), (2, (2, 16))])
def test_looking_takes_no_more_than_a_step(precision: str, batch: int, rounds: tuple[int, int]) -> None:
    """Where weights outweigh activations, some layers are looked at after others."""
    config, rules = replace(CONFIG, batch_size=batch, precision=precision, num_classes=10), recipe("short")
    model = in_precision(build(config, seed=3).train(), precision)
    step, phases, asked = make_step(model, config, rules), Phases(config, rules), 0
    images, labels = torch.randn(batch, 3, 48, 48).to(image_dtype(precision)), torch.arange(batch) % 10

    def batches() -> Batches:
        nonlocal asked
        asked += 1
        return [(images, labels)]

    standing = sum(x.nbytes for x in (*model.parameters(), *model.buffers(), images, labels))
    highest = highest_on_cpu(lambda: phases.begin(step, batches))
    largest = 4 * 32 * 128  # of one layer, which stands at least
    assert rounds[0] <= asked <= rounds[1]
    assert standing + highest.tensors <= predict(config).peak_bytes + (largest if batch == 2 else 0)


def test_rounds_choose_what_one_would() -> None:
    images = [(images[:2], labels[:2]) for images, labels in _batches()]
    several = _looked(replace(CONFIG, batch_size=2), images)
    rules = recipe("short")
    once = make_step(build(CONFIG, seed=3).train(), replace(CONFIG, batch_size=2), rules)
    (looking,) = Spt().looking(once.model, 2**40)
    with looking:
        for pictures, labels in images:
            once.backward(once.loss(pictures[:1], labels[:1]))
            once.optimizer.zero_grad()
    assert _entries(several.model) == _entries(once.model)


# --- a training -------------------------------------------------------------------------------------------


def test_a_training_that_is_interrupted_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """With the entries that were chosen before its first step, which is not done again."""
    check_it_goes_on("spt(share=0.01, batches=2)", tmp_path, epochs=2, after=(1, 6))
