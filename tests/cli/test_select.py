"""``bsr-explore select``: one configuration by one criterion, with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli.select import parse_accuracy, selected
from bsr_explorer.errors import UserError
from bsr_explorer.report.choice import Choice, knee, reaching, recommend, under
from bsr_explorer.report.front import study_front
from bsr_explorer.store.records import read_records, write_record

Cli = Callable[..., Any]


def answer(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    done = cli("select", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    said: dict[str, Any] = json.loads(done.out)
    return said


def test_without_a_criterion_the_recommendation_is_taken(cli: Cli, study_folder: Path) -> None:
    expected = recommend(study_front(study_folder))
    done = cli("select", study_folder)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == expected.point.method
    assert lines[1] == "toy, 48 px, batch 4, adamw, fp32, fused attention, cpu"
    assert f"accuracy  {expected.point.said}" in lines
    assert f"why       {expected.reason}" in lines
    assert lines[-1] == f"to train it in full:  bsr-explore train {study_folder} --select recommended"
    assert answer(cli, study_folder)["reason"] == expected.reason


@pytest.mark.parametrize("place", [0, -1])
def test_each_criterion_has_its_choice(cli: Cli, study_folder: Path, place: int) -> None:
    ahead = study_front(study_folder)
    point = ahead[place]

    def same(said: dict[str, Any], choice: Choice) -> bool:
        return (said["trial"], said["reason"]) == (choice.point.number, choice.reason)

    limit = point.bytes + 1
    assert same(answer(cli, study_folder, "under", f"{limit}B"), under(ahead, limit))
    assert same(answer(cli, study_folder, "reaching", f"{point.score}"), reaching(ahead, point.score))
    assert same(answer(cli, study_folder, "knee"), knee(ahead))


def test_json_says_what_was_chosen(cli: Cli, study_folder: Path) -> None:
    point = recommend(study_front(study_folder)).point
    said = answer(cli, study_folder)
    assert said["method"] == point.method
    assert (said["accuracy"], said["accuracy_std"], said["seeds"]) == (point.score, None, 1)
    assert (said["counted_bytes"], said["counts"]) == (point.bytes, "peak")
    assert said["config"] == point.record.config
    assert (said["data"], said["weights"]) == ("digits", point.record.weights)


@pytest.mark.parametrize(("text", "value"), [("0.85", 0.85), ("85%", 0.85), (" 1 ", 1.0), (".5", 0.5)])
def test_an_accuracy_is_a_part_or_percent(text: str, value: float) -> None:
    assert parse_accuracy(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["85", "101%", "-0.1", "nan", "", "%", "0.8.5", "high"])
def test_what_is_no_accuracy_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=r"--select: cannot read the accuracy .* write a part of 1 such as 0\.85"
    ):
        parse_accuracy(text)


def test_one_text_says_each_criterion(study_folder: Path) -> None:
    ahead, records = study_front(study_folder), read_records(study_folder)
    limit, accuracy = ahead[0].bytes + 1, ahead[-1].score
    for text, choice in (
        ("recommended", recommend(ahead)),
        (" knee ", knee(ahead)),
        (f"under {limit}B", under(ahead, limit)),
        (f"under  {limit} B", under(ahead, limit)),
        (f"reaching {accuracy}", reaching(ahead, accuracy)),
    ):
        number = choice.point.number
        assert selected(study_folder, text) == (number, records[number], choice.reason)
    assert selected(study_folder, "trial 4") == (4, records[4], "chosen by hand")


def test_the_next_step_is_a_training_by_the_same_words(cli: Cli, study_folder: Path) -> None:
    limit = study_front(study_folder)[-1].bytes
    said = cli("select", study_folder, "under", f"{limit}B").out.splitlines()
    assert said[-1] == f"to train it in full:  bsr-explore train {study_folder} --select 'under {limit}B'"
    assert (
        selected(study_folder, f"under {limit}B")[0] == answer(cli, study_folder, f"under {limit}B")["trial"]
    )


def test_a_trial_can_be_named(cli: Cli, study_folder: Path) -> None:
    assert answer(cli, study_folder, "trial", "4")["trial"] == 4
    done = cli("select", study_folder, "trial", "99")
    assert (done.code, done.err) == (2, "error: WHICH: trial 99 has no record; choose from 0–6\n")
    record = read_records(study_folder)[4]
    write_record(study_folder, 4, replace(record, status="failed", accuracy=None, reason="a wrong turn"))
    done = cli("select", study_folder, "trial", "4")
    assert done.err.startswith("error: TRIAL: 4 has no accuracy, for it is failed; ")
