"""A comparison's table for a paper."""

from __future__ import annotations

from pathlib import Path

from bsr_explorer.report.comparison.write import Report
from bsr_explorer.units import format_mb


def test_a_paper_gets_the_table_too(written: tuple[Path, Report]) -> None:
    folder, made = written
    text = (folder / "comparison.tex").read_text()
    assert "\\toprule" in text and "MiB" not in text.split("\\toprule")[1]
    assert "mean" not in text.split("\\toprule")[1] and "2 seeds" in text.split("\\toprule")[0]
    (linear,) = [line for line in text.splitlines() if line.startswith("\\texttt{linear}")]
    assert f"\\textbf{{{format_mb(made.rows[1]['peak_bytes'])}}}" in linear
    highest = max(made.rows, key=lambda each: each["accuracy"])
    (first,) = [line for line in text.splitlines() if line.startswith(f"\\texttt{{{highest['method']}}}")]
    accuracy = f"{100 * highest['accuracy']:.1f} $\\pm$ {100 * highest['accuracy_std']:.1f}"
    assert f"\\textbf{{{accuracy}}}" in first
