"""The step-time benchmark compares a method with full fine-tuning in pairs."""

from __future__ import annotations

import pytest

from benchmarks import step_time
from bsr_explorer import Config

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


def test_ratios_of_full_to_itself_are_one_but_for_time() -> None:
    full = Config("deit_t", 32, batch_size=2, method="full")
    row = step_time.compare(full, full, 1)
    assert row["saved"] == row["peak"] == row["published_32"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bsr_holds_less_than_full(precision: str) -> None:
    full = Config("deit_t", 64, batch_size=2, precision=precision, method="full")
    row = step_time.compare(full, full.with_method("bsr"), 1)
    assert min(float(str(row[key])) for key in ("saved", "peak", "published_32")) > 1.5


def test_methods_are_chosen_by_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--model deit_t --image-size 32 --batch-size 2 --pairs 1 --device cpu"
    monkeypatch.setattr("sys.argv", ["step_time.py", "--methods", "linear, last(k=1)", *words.split()])
    step_time.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[3:]] == ["`linear`", "`last(k=1)`"]
    for line in lines[3:]:
        assert "x the time of full (" in line
        assert line.count("x less |") == 3
