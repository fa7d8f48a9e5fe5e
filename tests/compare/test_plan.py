"""A comparison before it is run: what it predicts, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bsr_explorer.compare.plan import brief, plan_file
from bsr_explorer.config import Config, Fidelity
from bsr_explorer.errors import UserError
from bsr_explorer.methods import parse_method
from bsr_explorer.prediction import counted_bytes, largest_batch, predict
from bsr_explorer.store.comparison_file import ComparisonFile

MakeComparison = Callable[..., Any]

BUDGET = "1400KB"
"""Holds neither full fine-tuning nor what is checkpointed."""


@pytest.mark.parametrize("counts", ["peak", "saved", "published"])
def test_an_entry_is_the_prediction_at_the_configurations_own_size(
    make_comparison: MakeComparison, toy: str, counts: str
) -> None:
    made = make_comparison(budget="1400KB", counts=counts)
    for entry, method in zip(
        (made.full, *made.entries), ("full", "full", "linear", "last(k=1)"), strict=True
    ):
        config = Config(toy, 48, batch_size=4, method=method)
        costs = predict(config)
        assert (entry.method, entry.label, entry.key) == (method, method, config.key(4))
        assert (entry.peak_bytes, entry.saved_bytes) == (costs.peak_bytes, costs.saved_bytes)
        assert entry.train_flops == costs.train_flops
        assert entry.counted_bytes == counted_bytes(config, counts)
        assert entry.fits == (entry.counted_bytes <= 1_400_000)
        assert entry.largest_batch == largest_batch(config, 1_400_000, counts)


def test_without_a_budget_everything_fits(make_comparison: MakeComparison) -> None:
    made = make_comparison()
    assert made.budget_bytes is None
    assert made.fitting == list(made.entries)
    assert {entry.largest_batch for entry in made.entries} == {None}


def test_full_fine_tuning_is_the_reference_even_where_it_is_not_compared(
    make_comparison: MakeComparison,
) -> None:
    made = make_comparison("linear", budget=BUDGET)
    assert [entry.method for entry in made.entries] == ["linear"]
    assert (made.full.method, made.full.fits) == ("full", False)
    assert made.full.largest_batch is not None


def test_the_same_experiment_twice_is_refused(make_comparison: MakeComparison) -> None:
    with pytest.raises(UserError, match=r"--methods: bsr\(.*\) is the same as last\(k=1\) in this model"):
        make_comparison("full, last(k=1), bsr(blocks=(3,), keep={})")


def test_a_budget_for_nothing_is_refused_with_the_least(make_comparison: MakeComparison) -> None:
    with pytest.raises(
        UserError, match=r"--budget: 100KB holds none of the methods at batch 4; linear needs"
    ):
        make_comparison(budget="100KB")


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seeds_are_refused(make_comparison: MakeComparison, seeds: int) -> None:
    with pytest.raises(UserError, match=f"--seeds: {seeds} must be a whole number of at least 1"):
        make_comparison(seeds=seeds)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("full", "full"),
        ("bsr()", "bsr"),
        ("bsr(keep={})", "bsr(keep={})"),
        ("last", "last(k=3)"),
        ("last(k=1)+checkpoint()", "last(k=1)+checkpoint"),
        ("mesa(faithful=False)", "mesa(faithful=False)"),  # other defaults follow from it
        ("checkpoint(blocks=(1, 0))", "checkpoint(blocks=(0, 1))"),
    ],
)
def test_a_long_label_leaves_out_defaults(expression: str, said: str) -> None:
    assert brief(parse_method(expression)) == said
    assert parse_method(said) == parse_method(expression)


@pytest.mark.parametrize(
    ("method", "ruled"),
    [
        ("full", True),
        ("linear", True),
        ("last(k=2)", True),
        ("bsr(blocks=(1, 3), keep={2: 0.5})", True),
        ("bitfit", False),
        ("mesa", False),
        ("backrazor(ratio=0.5)", False),
        ("checkpoint", False),
        ("last(k=1)+offload", False),
    ],
)
def test_the_published_accounting_is_said_where_it_has_a_rule(
    make_comparison: MakeComparison, toy: str, method: str, ruled: bool
) -> None:
    (entry,) = make_comparison(method).entries
    counted = counted_bytes(Config(toy, 48, batch_size=4, method=method), "published")
    assert entry.published_bytes == (counted if ruled else None)
    if not ruled:
        with pytest.raises(UserError, match="published has no rule for"):
            make_comparison(method, counts="published")


def test_a_file_is_a_comparison_for_each_of_its_data_sets(toy: str) -> None:
    asked = ComparisonFile(
        "several",
        (parse_method("full"), parse_method("last(k=1)")),
        Config(toy, 48, batch_size=4),
        ("digits", "cifar100"),
        fidelity=Fidelity(recipe="short"),
        seeds=2,
        budget=BUDGET,
    )
    small, large = plan_file(asked)
    assert (small.data, small.config["num_classes"]) == ("digits", 10)
    assert (large.data, large.config["num_classes"]) == ("cifar100", 100)
    for made in (small, large):
        assert [entry.method for entry in made.entries] == ["full", "last(k=1)"]
        assert (made.seeds, made.budget, made.settled) == (2, BUDGET, False)
    assert large.entries[1].peak_bytes > small.entries[1].peak_bytes
