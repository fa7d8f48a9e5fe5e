"""What is kept of the output of a trial that crashed."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.search.executors.base import TAIL, tail, too_long


def test_the_end_of_the_output_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert tail(None) == tail(log) == ""
    log.write_text("\n".join(["x" * TAIL, "Extension modules: " + "torch, " * 500, "the end", ""]))
    assert tail(log) == ("x" * TAIL + "\nthe end")[-TAIL:]


def test_a_trial_that_was_ended_says_after_how_long() -> None:
    assert too_long(600.4) == "took longer than 600 s"
