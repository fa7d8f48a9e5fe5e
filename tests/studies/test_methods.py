"""The study of all methods: what is trained next, what is told of it, and the papers' claims."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.methods import METHODS, Bsr, parse_method
from bsr_explorer.methods.composed import Composed
from studies.methods import claims, make, train

Row = dict[str, str]
OWN, HIGH, HIGHEST, LOW = "0.0004", "0.0012", "0.0036", "0.000133"


def trained(accuracy: Callable[[str, str], float], methods: tuple[str, ...]) -> list[Row]:
    """All that the study trains of these methods, one after another."""
    rows: list[Row] = []
    while (following := next(train.missing(methods, rows), None)) is not None:
        method, rate, seed = following
        lr = f"{rate:.3g}"
        rows.append(
            {
                "method": method,
                "lr": lr,
                "seed": str(seed),
                "accuracy": f"{accuracy(method, lr):.4f}",
                "seconds": "10.0",
            }
        )
    return rows


def test_rates_go_up_or_down_from_the_recipes_and_the_best_has_three_seeds() -> None:
    best = {"full": OWN, "linear": HIGH, "lora": HIGHEST, "last(k=3)": LOW}
    scale = [LOW, OWN, HIGH, HIGHEST]
    rows = trained(
        lambda method, lr: 0.9 - 0.1 * abs(scale.index(lr) - scale.index(best[method])), tuple(best)
    )
    assert [(row["method"], row["lr"]) for row in rows[:4]] == [(method, OWN) for method in best]
    for method, rate in best.items():
        tried = {row["lr"] for row in rows if row["method"] == method and row["seed"] == "0"}
        assert tried == {OWN, HIGH, HIGHEST if best[method] in (HIGH, HIGHEST) else LOW}
        assert train.chosen_rate(method, rows) == rate
        assert sorted(row["seed"] for row in rows if (row["method"], row["lr"]) == (method, rate)) == [
            "0",
            "1",
            "2",
        ]


def test_every_method_of_the_package_is_in_it() -> None:
    """But for what moves full fine-tuning elsewhere, the two halves of BSR, what drops tokens alone, and what
    needs mixtures."""
    named = set()
    for expression in (*train.METHODS, *train.SAME):
        method = parse_method(expression)
        named |= {part.name for part in (method.parts if isinstance(method, Composed) else (method,))}
    assert set(METHODS) - named <= {"offload", "blocks", "drop", "evit", "freeze"}


def test_drops_by_chance_stand_beside_the_others() -> None:
    alone = [parse_method(expression) for expression in train.METHODS]
    dropping = [method for method in alone if isinstance(method, Bsr) and method.dropping]
    assert len(dropping) >= 4
    for method in dropping:
        assert replace(method, criterion="random") in alone


def test_the_table_and_its_fronts() -> None:
    accuracy = {"linear": 0.6, "lora": 0.65, "last(k=3)": 0.7, "full+approxbp": 0.68, "full": 0.72}
    rows = trained(lambda method, lr: accuracy[method] - 0.1 * (lr != OWN), tuple(accuracy))
    found = {line.method: line for line in make.lines(rows)}
    assert set(found) == {*accuracy, "checkpoint", "full+approxbp+msln"}
    assert found["checkpoint"].accuracies == found["full"].accuracies
    assert found["checkpoint"].peak < found["full"].peak
    assert found["linear"].accuracy == pytest.approx(60)
    assert found["linear"].deviation == pytest.approx(0)
    ahead = make.fronts(list(found.values()))
    assert {"linear", "last(k=3)"} <= ahead["memory"]
    assert not {"lora", "full+approxbp"} & ahead["memory"]  # more memory than last(k=3), and less accuracy
    assert "checkpoint" not in ahead["time"]


def test_it_writes_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.rows import append_row

    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(tmp_path)])
    make.main()
    assert "nothing yet" in capsys.readouterr().out
    for row in trained(lambda method, lr: 0.5 + 0.01 * len(method), ("linear", "full")):
        append_row(tmp_path / train.TRAININGS, row)
    make.main()
    assert "| `full` |" in (tmp_path / "methods.md").read_text()
    assert (tmp_path / "methods.png").exists()


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: f"{claim.method}: {claim.ours}")
def test_a_claim_has_a_verdict(claim: claims.Claim) -> None:
    answer = claims.answer(claim)
    assert answer.verdict.startswith(("reproduced", "differs: "))
    assert answer.peak > 1
    assert answer.counted >= 0.95 * answer.peak


@pytest.mark.thorough
@pytest.mark.long
def test_one_training_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZE": 64, "IMAGES": 32, "EPOCHS": 1, "VALIDATION": 32, "BATCH": 8}.items():
        monkeypatch.setattr(train, name, value)
    row = train.train("linear", 4e-4, 1, tmp_path)
    assert (row["method"], row["lr"], row["seed"], row["status"]) == ("linear", OWN, "1", "finished")
    assert 0 <= float(row["accuracy"]) <= 1
