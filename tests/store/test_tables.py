"""Files whose tables and keys are known: what is read, and how what is wrong is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bsr_explorer.errors import UserError
from bsr_explorer.store.tables import (
    NUMBER,
    TABLE_OF_TABLES,
    TABLES,
    TEXT,
    TRUTH,
    WHOLE,
    flat,
    list_of,
    read_tables,
)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_tables(path, TABLES)
    text = str(error.value)
    assert "\n" not in text
    return text


# --- what a value may be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fits", "others"),
    [
        (TEXT, ["", "a"], [1, None, ["a"]]),
        (TRUTH, [True, False], [0, 1, "yes"]),
        (WHOLE, [0, -3], [True, 1.0, "1"]),
        (NUMBER, [0, 1.5], [True, "1.5"]),
        (list_of(WHOLE), [[], [1, 2]], [1, [1.5], [True], "12"]),
        (TABLE_OF_TABLES, [{}, {"mesa": {"bits": [8]}}], [[], {"mesa": 8}]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_kind_says_what_it_is_of(kind: Any, fits: list[Any], others: list[Any]) -> None:
    words, check = kind
    assert words
    assert all(map(check, fits))
    assert not any(map(check, others))


@given(st.dictionaries(st.sampled_from(["seed", "trials"]), st.integers(-(2**62), 2**62)))
def test_what_may_stand_there_is_read_as_it_is(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> None:
    path = tmp_path_factory.mktemp("read") / "file.toml"
    path.write_text(tomli_w.dumps({"study": keys}))
    assert read_tables(path, TABLES) == {"study": keys}


def test_tables_as_one_name_their_keys() -> None:
    assert flat({"a": {"x": 1, "y": 2}, "b": {"x": 3}, "c": {}}) == {"a.x": 1, "a.y": 2, "b.x": 3}


# --- files ----------------------------------------------------------------------------------------------


def test_a_file_without_tables_is_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("model = 'deit_s'\nmethod = 'linear'\n")
    assert read_tables(path, TABLES) == {"config": {"model": "deit_s", "method": "linear"}}
    path.write_text("modle = 'deit_s'\n")
    with pytest.raises(UserError, match=r"config\.toml: key of \[config\]: unknown value 'modle'"):
        read_tables(path, TABLES)
    path.write_text("")
    assert read_tables(path, TABLES) == {}


@pytest.mark.parametrize("text", ["[study", "a = ", "x = 1\nx = 2", "\0"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert refused(path).startswith(f"{path}: not valid TOML: ")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe")
    assert refused(path).startswith(f"{path}: not valid TOML: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "none.toml")
        == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    )
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
