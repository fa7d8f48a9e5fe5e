"""The one command for a GPU, tried without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu


def test_pieces_are_written_as_they_come_and_made_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("-c", "print('{}')")
    some = [
        gpu.Piece("first", words, 20),
        gpu.Piece("second", ("-c", "import sys; sys.exit('no GPU')"), 20),
        gpu.Piece("third", ("-c", "import time; time.sleep(60)"), 1),
        gpu.Piece("fourth", ("-c", "print('{}'); raise SystemExit(1)"), 20),
    ]
    monkeypatch.setattr(gpu, "pieces", lambda folder, device: some)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path / "found")])
    for there in (False, True):
        gpu.main()
        shown = capsys.readouterr().out
        assert ("first: there already" in shown) == there
        assert "second: failed: no GPU" in shown
        assert "third: stopped after 1 s" in shown
        assert ("fourth: done, exit 1" in shown) != there
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert names == {"machine.json", "pieces.jsonl", "first.json", "fourth.json"}
    ends = [json.loads(line) for line in (tmp_path / "found" / "pieces.jsonl").read_text().splitlines()]
    assert [end["piece"] for end in ends] == ["first", "second", "third", "fourth", "second", "third"]


def test_without_time_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path)])
    gpu.main()
    assert capsys.readouterr().out.count("no time is left") == len(gpu.pieces(tmp_path, "cpu"))


def test_on_a_gpu_steps_are_recorded_first(tmp_path: Path) -> None:
    found = gpu.pieces(tmp_path, "cuda")
    assert [piece.name for piece in found[: len(gpu.STEPS)]] == [f"trace-{n}" for n in range(len(gpu.STEPS))]
    assert len({piece.name for piece in found}) == len(found)
    assert all(Path(piece.words[0]).exists() for piece in found if piece.words[0] != "-m")


@pytest.mark.thorough
def test_every_piece_that_needs_no_gpu_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--minutes", "20", "--out", str(tmp_path)])
    gpu.main()
    shown = capsys.readouterr().out
    assert "failed" not in shown
    for piece in gpu.pieces(tmp_path, "cpu"):
        assert (tmp_path / f"{piece.name}.json").exists(), shown
