"""The table of accountings, on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import accounting

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


def test_it_puts_every_accounting_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["accounting.py", "--json", "--out", str(tmp_path)])
    accounting.main()
    rows = json.loads(capsys.readouterr().out)
    by_name = {(row["method"], row["attention"]): row for row in rows}
    bsr, razor = by_name["bsr", "math"], by_name["backrazor(ratio=0.9)", "math"]
    full = by_name["full", "math"]
    assert full["bsr_accounting_mib"] / bsr["bsr_accounting_mib"] > 5.4
    assert razor["back_razor_accounting_mib"] == 1223
    assert razor["saved_bytes"] < full["saved_bytes"] / 5
    assert (tmp_path / "accounting.md").read_text().count("\n| `") == len(rows)
