"""Recorded steps: files, and the first event that is not as predicted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.devices import cuda
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import predict
from bsr_explorer.trace import UNIT, VERSION, Trace, beside, predicted_events
from tests.cost.recorded import config_of, recorded


@pytest.fixture(autouse=True)
def torch_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_installed", lambda: (2, 11))


@pytest.fixture(scope="module")
def linear() -> Trace:
    step = recorded()[1]
    assert step.config["method"] == "linear"
    return replace(
        step, config=config_of(step).to_dict(), provenance={"processor": "NVIDIA H200", "torch": "2.11.0"}
    )


def test_a_file_is_read_back(linear: Trace, tmp_path: Path) -> None:
    linear.write(tmp_path / "trace.json")
    assert Trace.read(tmp_path / "trace.json") == linear


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "damaged: it is no JSON"),
        (lambda text: text.replace(f'"version": {VERSION}', '"version": 99'), "of another version than 1"),
        (lambda text: text.replace('"peak": ', '"peek": '), "damaged: it should hold config, peak"),
        (lambda text: text.replace('"peak": ', '"peak": -'), "damaged"),
        (lambda text: text.replace("deit_s", "no_such_model"), "damaged|unknown"),
        (lambda text: "[]", "not a recorded step"),
        (lambda text: "[" * 100_000, "damaged: it is no JSON"),
        (lambda text: text.replace('"events": [', '"events": [Infinity, '), "events are whole numbers"),
        (lambda text: text.replace('"events": [', '"events": [0, '), "events are whole numbers"),
        (lambda text: text.replace('"cuda"', '"cpu"'), "damaged: config"),
        (
            lambda text: text[: text.index('"provenance"')] + '"provenance": null}',
            "it says of no step on a GPU",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_line(
    linear: Trace, tmp_path: Path, change: object, said: str
) -> None:
    path = tmp_path / "trace.json"
    linear.write(path)
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(UserError, match=said) as caught:
        beside(Trace.read(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        Trace.read(tmp_path / "nowhere.json")


def test_what_agrees_has_no_first_difference(linear: Trace) -> None:
    compared = beside(linear)
    assert compared.first is None
    assert compared.events == len(linear.events)
    assert (compared.peak, compared.reserved) == (linear.peak, linear.reserved)


def test_the_first_event_that_differs_is_named(linear: Trace) -> None:
    events = list(linear.events)
    place = next(n for n, change in enumerate(events) if change * UNIT == 38_731_776)
    compared = beside(replace(linear, events=(*events[:place], events[place] + 1, *events[place + 1 :])))
    assert compared.first is not None
    assert compared.first.number == place
    assert (compared.first.recorded, compared.first.predicted) == (38_731_776 + UNIT, 38_731_776)
    assert compared.first.at == "forward, block 0, blocks.0.mlp.fc1"


def test_a_step_that_ends_early_or_late_differs_there(linear: Trace) -> None:
    short = beside(replace(linear, events=linear.events[:-1])).first
    long = beside(replace(linear, events=(*linear.events, 5000))).first
    assert short is not None
    assert long is not None
    assert (short.recorded, short.number) == (None, len(linear.events) - 1)
    assert (long.recorded, long.predicted) == (5000 * UNIT, None)


def test_it_can_be_compared_with_another_card(linear: Trace) -> None:
    config = replace(Config.from_dict(linear.config), gpu="a100")
    assert beside(linear, config).peak == predict(config).peak_bytes < linear.peak


def test_predicted_events_are_large_and_a_step_leaves_nothing() -> None:
    config = Config("deit_s", 64, batch_size=8, method="last(k=1)", device="cuda")
    events = predicted_events(config)
    assert all(abs(event.change) > 2**20 for event in events)
    assert sum(event.change for event in events) == 0


def test_files_are_plain_json(linear: Trace, tmp_path: Path) -> None:
    linear.write(tmp_path / "trace.json")
    values = json.loads((tmp_path / "trace.json").read_text())
    assert values["version"] == VERSION
    assert values["config"]["gpu"] == "h200"
