"""The fidelity benchmark, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fidelity.py"


def test_it_compares_gradients(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", "deit_t", "--image-size", "32", "--batch-size", "4"]
    command += [
        "--data",
        "digits",
        "--weights",
        "random",
        "--draws",
        "2",
        "--warm",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    ]
    for method in ("backrazor(ratio=0, values='fp32', gelu='dense')", "mesa", "bsr+mesa(faithful=False)"):
        command += ["--methods", method]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    exact, mesa, composed = rows
    assert all(row["forward_equal"] and row["saved_bytes"] == row["predicted_saved_bytes"] for row in rows)
    assert exact["error"] == 0
    assert 0 < mesa["error"] < 0.3
    assert mesa["error_of_mean"] < mesa["error"]
    assert composed["saved_bytes"] < composed["plain_saved_bytes"] / 2
    assert "| `mesa" in (tmp_path / "fidelity.md").read_text()
