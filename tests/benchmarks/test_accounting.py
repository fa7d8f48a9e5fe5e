"""The table of accountings, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accounting.py"


def test_it_puts_every_accounting_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--json", "--out", str(tmp_path)]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    by_name = {(row["method"], row["attention"]): row for row in rows}
    bsr, razor = by_name["bsr", "math"], by_name["backrazor(ratio=0.9)", "math"]
    full = by_name["full", "math"]
    assert full["bsr_accounting_mib"] / bsr["bsr_accounting_mib"] > 5.4
    assert razor["back_razor_accounting_mib"] == 1223
    assert razor["saved_bytes"] < full["saved_bytes"] / 5
    assert (tmp_path / "accounting.md").read_text().count("\n| `") == len(rows)
