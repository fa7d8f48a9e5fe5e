"""A comparison before it is run: its entries with their predictions, and what each run costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from bsr_explorer.config import Config, Fidelity
from bsr_explorer.data.places import classes_of
from bsr_explorer.errors import UserError
from bsr_explorer.methods import Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.prediction import check_ruled, counted_bytes, geometry_of, is_ruled, largest_batch, predict
from bsr_explorer.store.comparison_file import ComparisonFile
from bsr_explorer.store.comparison_folder import Comparison, Entry
from bsr_explorer.units import format_bytes, parse_bytes


def plan(
    config: Config,
    methods: Sequence[Method],
    data: str,
    weights: str,
    fidelity: Fidelity,
    seeds: int,
    budget: str | None,
    counts: str,
    quantile: float = 1.0,
) -> Comparison:
    """A comparison with all that can be said of it before anything runs.

    Args:
        config: of all methods (its own is of no account).
        fidelity, weights: what they leave open (None, ``auto``) is settled later.
        budget: memory with its unit, or None.
        counts: what the budget counts: key of ``COUNTS``.
        quantile: of steps that differ; see ``counted_bytes``.

    Raises:
        UserError: a method that does not go with the model, the same experiment twice, or a budget that
            holds none of the methods.
    """
    budget_bytes = None if budget is None else parse_bytes(budget)
    entries = tuple(_entry(config.with_method(method), budget_bytes, counts, quantile) for method in methods)
    keys = [entry.key for entry in entries]
    for place, entry in enumerate(entries):
        if entry.key in keys[:place]:
            other = entries[keys.index(entry.key)]
            raise UserError(
                f"--methods: {entry.method} is the same as {other.method} in this model; name one of them"
            )
    if not any(entry.fits for entry in entries):
        least = min(entries, key=lambda entry: entry.counted_bytes)
        raise UserError(
            f"--budget: {budget} holds none of the methods at batch {config.batch_size}; {least.method} needs "
            f"least, {format_bytes(least.counted_bytes)} counting {counts}"
        )
    return Comparison(
        config={key: value for key, value in config.to_dict().items() if key != "method"},
        data=data,
        weights=weights,
        fidelity=asdict(fidelity),
        seeds=seeds,
        budget=budget,
        budget_bytes=budget_bytes,
        counts=counts,
        full=_entry(config.with_method("full"), budget_bytes, counts, quantile),
        entries=entries,
        quantile=quantile,
    )


def plan_file(asked: ComparisonFile) -> list[Comparison]:
    """The comparisons of a file, one for each of its data sets, without a look at data or weights.

    Raises:
        UserError: as ``plan``, or an image folder that is not there.
    """
    return [
        plan(
            asked.config.with_classes(classes_of(data)),
            asked.methods,
            data,
            asked.weights,
            asked.fidelity,
            asked.seeds,
            asked.budget,
            asked.counts,
            asked.quantile,
        )
        for data in asked.data
    ]


def _entry(config: Config, budget_bytes: int | None, counts: str, quantile: float) -> Entry:
    check_ruled(config, counts)
    predicted, counted = predict(config), counted_bytes(config, counts, quantile)
    bounds = set(predicted.at_least)
    if f"{counts}_bytes" in bounds:
        bounds.add("counted_bytes")
    return Entry(
        method=str(config.method),
        label=brief(config.how),
        key=config.key(geometry_of(config).depth),
        peak_bytes=predicted.peak_bytes,
        saved_bytes=predicted.saved_bytes,
        counted_bytes=counted,
        train_flops=predicted.train_flops,
        fits=budget_bytes is None or counted <= budget_bytes,
        largest_batch=None if budget_bytes is None else largest_batch(config, budget_bytes, counts, quantile),
        published_bytes=_published(config),
        at_least=tuple(sorted(bounds)),
        unknown=tuple(map(str, predicted.unknown)),
    )


def _published(config: Config) -> int | None:
    """By the paper's accounting, where it has a rule."""
    return counted_bytes(config, "published") if is_ruled(config) else None


def brief(method: Method) -> str:
    """A method's expression; a long one without the arguments that it needs not say."""
    if isinstance(method, Composed):
        return "+".join(map(brief, method.parts))
    if len(str(method)) <= LONG:
        return str(method)
    given = {f.name: getattr(method, f.name) for f in fields(method)}
    for name in list(given):
        fewer = {other: value for other, value in given.items() if other != name}
        if type(method)(**fewer) == method:
            given = fewer
    said = [f"{name}={value!r}" for name, value in given.items()]
    return f"{method.name}({', '.join(said)})" if said else method.name


LONG = 24
"""Characters of an expression that a table and a figure have room for."""


def config_of(comparison: Comparison, entry: Entry) -> Config:
    return Config.from_dict({**comparison.config, "method": entry.method})


def run_flops(comparison: Comparison, entry: Entry) -> int:
    fidelity = Fidelity(**comparison.fidelity)
    config = fidelity.at(config_of(comparison, entry))
    costs = predict(config)
    trained = (fidelity.epochs or 0) * (fidelity.train_size or 0)
    evaluated = fidelity.val_size or 0
    return (trained * costs.train_flops + evaluated * costs.forward_flops) // config.batch_size
