"""Text as data: what Python ships, files, and how they are split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bsr_explorer.data.text import OWN, load_texts
from bsr_explorer.errors import UserError


def folder(tmp_path: Path, documents: int) -> str:
    for number in range(documents):
        (tmp_path / f"{number:02}.txt").write_text(chr(ord("a") + number) * 40)
    (tmp_path / "notes.md").write_text("no text")
    return str(tmp_path)


def letters(rows: torch.Tensor) -> set[str]:
    return set(bytes(rows.flatten().tolist()).decode()) - {"\n"}


def test_each_token_predicts_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(bytes(range(200)))
    train = load_texts(str(tmp_path / "one.txt"), length=4).train
    tokens, labels = train[1]
    assert tokens.tolist() == [5, 6, 7, 8] and labels.tolist() == [6, 7, 8, 9]
    assert (tokens.dtype, labels.dtype) == (torch.int64, torch.int64)
    assert len(train) == 160 // 5


def test_documents_are_held_out_whole(tmp_path: Path) -> None:
    texts = load_texts(folder(tmp_path, 20), length=7)
    parts = [letters(part.rows) for part in (texts.train, texts.validation, texts.test)]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert texts.left_out == {".md": 1}
    assert "20 documents" in texts.description


def test_of_few_documents_the_last_tenths_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(bytes(range(100)) * 2)
    texts = load_texts(str(tmp_path), length=9)
    assert texts.train.rows.flatten().tolist() == (list(range(100)) * 2)[:160]
    assert texts.validation.rows.flatten().tolist() == list(range(60, 80))
    assert texts.test.rows.flatten().tolist() == list(range(80, 100))


def test_fewer_are_a_subset_of_more(tmp_path: Path) -> None:
    name = folder(tmp_path, 20)
    less, more = (load_texts(name, length=7, train_size=size).train.rows.tolist() for size in (5, 9))
    assert less == more[:5]
    assert "train 5 of " in load_texts(name, length=7, train_size=5).description


@pytest.mark.parametrize("name", OWN)
def test_what_python_ships(name: str) -> None:
    texts = load_texts(name, length=128)
    assert len(texts.train) > 1000 and len(texts.validation) > 50 and len(texts.test) > 50
    again = load_texts(name, length=128)
    assert torch.equal(texts.train.rows, again.train.rows)


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data: there is no file .*nothing\.txt"):
        load_texts(str(tmp_path / "nothing.txt"), length=8)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UserError, match="has no 65 bytes for a sequence of 64 tokens"):
        load_texts(str(tmp_path / "short.txt"), length=64)
    with pytest.raises(UserError, match="--train-size: 100000000 sequences"):
        load_texts("text", length=64, train_size=10**8)
