"""The fidelity benchmark, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fidelity

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


@pytest.mark.usefixtures("toy")
def test_it_compares_gradients(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = (
        "--model toy --image-size 32 --batch-size 4 --data digits --weights random --draws 2 --warm 1 --json"
    )
    methods = (
        "backrazor(ratio=0, values='fp32', gelu='dense')",
        "mesa",
        "bsr(blocks=(1, 3), keep={2: 0.5})+mesa(faithful=False)",
    )
    given = [word for method in methods for word in ("--methods", method)]
    monkeypatch.setattr("sys.argv", ["fidelity.py", *words.split(), *given, "--out", str(tmp_path)])
    fidelity.main()
    rows = json.loads(capsys.readouterr().out)
    exact, mesa, composed = rows
    assert all(row["forward_equal"] and row["saved_bytes"] == row["predicted_saved_bytes"] for row in rows)
    assert exact["error"] == 0
    assert 0 < mesa["error"] < 0.3
    assert mesa["error_of_mean"] < mesa["error"]
    assert composed["saved_bytes"] < composed["plain_saved_bytes"] / 2
    assert "| `mesa" in (tmp_path / "fidelity.md").read_text()
