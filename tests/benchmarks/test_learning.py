"""The learning benchmark runs only what is missing, and its table says mean and deviation."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import learning
from bsr_explorer.store.records import read_records

pytestmark = pytest.mark.thorough  # a benchmark is a process of its own, or trains


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(learning, "METHODS", ("linear", "full"))
    words = "--model deit_t --data digits --weights random --image-size 32 --train-size 32 --val-size 20 --epochs 1"
    monkeypatch.setattr("sys.argv", ["learning.py", "--out", str(tmp_path), "--seeds", "2", *words.split()])
    return tmp_path


def test_it_trains_what_is_missing_and_writes_a_table(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learning.main()
    assert (small / "table.md").read_text() in capsys.readouterr().out
    records = sorted((small / "records").iterdir())
    assert [path.name for path in records] == ["0000.json", "0001.json", "0002.json", "0003.json"]
    before = {path: path.read_bytes() for path in records}
    records[2].unlink()
    learning.main()
    assert {path: path.read_bytes() for path in records if path != records[2]} == {
        path: content for path, content in before.items() if path != records[2]
    }
    assert records[2].is_file()


def test_the_table_is_over_seeds(small: Path) -> None:
    learning.main()
    records = list(read_records(small).values())
    rows = {row["method"]: row for row in learning.table(records)}
    scores = [100 * r.accuracy for r in records if r.method == "full" and r.accuracy is not None]
    assert rows["full"]["accuracy"] == pytest.approx(sum(scores) / 2)
    assert rows["full"]["saving_224"] == 1
