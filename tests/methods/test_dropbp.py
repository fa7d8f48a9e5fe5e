"""DropBP: what a skipped branch does not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build, make_step
from bsr_explorer.finetune.measure import measure
from bsr_explorer.finetune.phases import Phases
from bsr_explorer.methods import DropBP, parse_method
from bsr_explorer.methods.dropbp import allotted
from bsr_explorer.methods.moving import VALUES, InStep
from bsr_explorer.methods.steps import Shape
from bsr_explorer.prediction import predict, steps_of
from bsr_explorer.train.recipes import recipe
from bsr_explorer.train.step import Step
from tests.methods.interrupted import check_it_goes_on

pytestmark = pytest.mark.usefixtures("toy")

CONFIG = Config("toy", 48, batch_size=2, method="full+dropbp")
SKIPPED = DropBP().steps(4).shape(("blocks.1.attn", "blocks.2.mlp"))


def test_the_forward_pass_is_the_plain_models_and_gradients_are_those_without_the_skipped_branches() -> None:
    images = torch.randn(2, 3, 48, 48)
    plain, model = build(CONFIG.with_method("full")), build(CONFIG)
    CONFIG.how.turn(model, SKIPPED)
    outputs = model(images)
    assert torch.equal(outputs, plain(images))
    outputs.sum().backward()
    for branch, begin in (("blocks.1.attn", "blocks.1.norm1"), ("blocks.2.mlp", "blocks.2.norm2")):
        assert all(p.grad is None for p in model.get_submodule(branch).parameters())
        assert all(p.grad is None for p in model.get_submodule(begin).parameters())
        # Reference: the branch as a constant that is added.
        plain.get_submodule(begin).register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    plain(images).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, theirs[name].grad), name


def test_what_is_skipped_is_not_saved_and_not_computed_backward() -> None:
    full, step = predict(CONFIG.with_method("full")), predict(CONFIG.with_method(InStep(CONFIG.how, SKIPPED)))
    saved = {row.operation for row in step if row.kind == "saved"}
    assert not any(name.startswith(("blocks.1.attn", "blocks.1.norm1", "blocks.2.mlp")) for name in saved)
    assert any(name.startswith("blocks.1.mlp") for name in saved)
    assert step.saved_bytes < full.saved_bytes and step.train_flops < full.train_flops
    assert step.forward_flops == full.forward_flops
    assert step.optimizer_bytes == full.optimizer_bytes  # what rests is remembered


def test_as_many_are_skipped_in_each_step_if_that_is_asked() -> None:
    model, how = build(CONFIG), DropBP(0.5, "count")
    assert how.count(4) == 4
    for done in range(5):
        assert len(how.choose(model, done, 5).skips) == 4
    torch.manual_seed(0)
    each = [len(DropBP(0.5).choose(model, done, 5).skips) for done in range(200)]
    assert len(set(each)) > 1 and 3.5 < sum(each) / 200 < 4.5


def test_a_step_of_each_may_skip_nothing_and_one_of_count_holds_less() -> None:
    full = predict(CONFIG.with_method("full"))
    assert predict(CONFIG).saved_bytes == full.saved_bytes
    assert predict(CONFIG.with_method("full+dropbp(draw='count')")).saved_bytes < full.saved_bytes
    assert len(steps_of(CONFIG).expected) == 16


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropbp(rate=1.0)", "rate must be at least 0 and below 1"),
        ("dropbp(rate=-0.1)", "rate must be at least 0 and below 1"),
        ("dropbp(draw='some')", "each.*count"),
        ("dropbp(by='size')", "all.*sensitivity"),
        ("dropbp(draw='count', by='sensitivity')", "each branch is drawn at its own rate; leave draw out"),
        ("dropbp(rate=0.95, by='sensitivity')", "rate must be at most 0.9"),
    ],
)
def test_what_it_refuses(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_method(text)


def test_a_shape_lists_branches_in_the_models_order() -> None:
    shape = DropBP().steps(12).shape(("blocks.10.mlp", "blocks.2.mlp", "blocks.2.attn"))
    assert shape.skips == ("blocks.2.attn", "blocks.2.mlp", "blocks.10.mlp")
    assert isinstance(shape, Shape) and shape.rests[:3] == ("blocks.2.norm1", "blocks.2.attn", "blocks.2.ls1")


# --- by sensitivity ---------------------------------------------------------------------------------------

SENSITIVE = CONFIG.with_method("full+dropbp(rate=0.5, by='sensitivity')")


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 100)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]),
)
def test_rates_are_allotted_until_as_much_is_skipped_as_is_asked_for(
    branches: list[tuple[float, int]], rate: float
) -> None:
    sensitivities, costs = zip(*branches, strict=True)
    rates = allotted(sensitivities, costs, rate)
    skipped = sum(each * cost for each, cost in zip(rates, costs, strict=True))
    assert skipped >= rate * sum(costs) * (1 - 1e-6)
    assert all(0 <= each <= 0.9 and round(10 * each) == pytest.approx(10 * each) for each in rates)
    last = max(cost for each, cost in zip(rates, costs, strict=True) if each) / 10 if any(rates) else 0
    assert skipped - last <= rate * sum(costs) * (1 + 1e-6)  # and no tenth more


def test_the_least_sensitive_have_the_highest_rates() -> None:
    assert allotted([4.0, 1.0, 2.0], [1, 1, 1], 0.3) == [0.1, 0.6, 0.2]  # each time the least product
    assert allotted([0.0, 1.0], [1, 1], 0.5) == [0.9, 0.1]


def _looked(seed: int = 0) -> Step:
    rules = recipe("short")
    step = make_step(build(SENSITIVE, seed=3).train(), SENSITIVE, rules)
    step.changes = Phases(SENSITIVE, rules)
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(2, 3, 48, 48, generator=generator), torch.tensor([0, 1])
    step.changes.begin(step, lambda: [(images, labels)])
    return step


def test_rates_follow_from_gradients_without_each_branch() -> None:
    """Against the same by hand: a branch as a constant that is added."""
    model, method = _looked().model, DropBP(0.5, by="sensitivity")
    found = model.get_buffer(VALUES).tolist()
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2, 3, 48, 48, generator=generator)[:1], torch.tensor([0])
    branches = [f"blocks.{block}.{name}" for block in range(4) for name in ("attn", "mlp")]

    def norms(without: str | None) -> dict[str, torch.Tensor]:
        plain = build(CONFIG.with_method("full"), seed=3).train()
        if without is not None:
            plain.get_submodule(without).register_forward_hook(lambda module, inputs, out: out.detach())
        torch.nn.functional.cross_entropy(plain(images), labels).backward()
        return {
            name: torch.zeros(()) if p.grad is None else p.grad.norm() for name, p in plain.named_parameters()
        }

    whole = norms(None)
    sensitivities = [
        float(sum((whole[name] - norm).square() for name, norm in norms(branch).items()))
        for branch in branches
    ]
    attention = 10 * (4 * 32 * 32) + 2 * 10 * 10 * 32
    assert found == pytest.approx(allotted(sensitivities, [attention, 10 * 8 * 32 * 32] * 4, 0.5))
    assert len(set(found)) > 1
    assert method.looks == 1 and DropBP().looks == 0


def test_looking_leaves_nothing_behind_and_steps_are_drawn_by_the_rates() -> None:
    step, how = _looked(), DropBP(0.5, by="sensitivity")
    model = step.model
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    rates = model.get_buffer(VALUES).tolist()
    torch.manual_seed(0)
    drawn = [how.choose(model, done, 400).skips for done in range(400)]
    branches = [f"blocks.{block}.{name}" for block in range(4) for name in ("attn", "mlp")]
    shares = [sum(branch in skips for skips in drawn) / 400 for branch in branches]
    assert shares == pytest.approx(rates, abs=0.1)


def test_a_step_may_skip_nothing_whatever_the_rates_and_that_is_what_counts() -> None:
    numbers = 4 * 2 * 4  # two rates a block, in fp32
    assert predict(SENSITIVE).saved_bytes == predict(CONFIG.with_method("full")).saved_bytes
    assert predict(SENSITIVE).parameter_bytes == predict(CONFIG).parameter_bytes + numbers
    difference = predict(SENSITIVE) - measure(SENSITIVE)
    assert (difference.rows, difference.peak_bytes) == ((), 0)
    assert "the rates follow from the images" in steps_of(SENSITIVE).known
    assert SENSITIVE.how.at_inference is None


@pytest.mark.thorough
def test_a_training_by_sensitivity_goes_on_with_its_rates(tmp_path: Path) -> None:
    check_it_goes_on("full+dropbp(rate=0.5, by='sensitivity')", tmp_path, epochs=2, after=(2, 6))
