"""The page of each method: complete, and written from the code."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from bsr_explorer.methods import METHODS
from docs.hooks import methods

FILES = dict(methods.pages())
every_method = pytest.mark.parametrize("name", METHODS)

MOST_LINES = 5
"""Of the mathematics of a method."""


def test_there_is_a_file_for_each_method_and_none_else() -> None:
    assert FILES.keys() == METHODS.keys()


@every_method
def test_the_mathematics_are_said_in_a_few_lines(name: str) -> None:
    said = methods.sections(FILES[name])["Mathematics"]
    assert 0 < len(said.splitlines()) <= MOST_LINES
    assert all(len(line) <= 132 for line in said.splitlines())


@every_method
def test_a_page_has_all_its_parts(name: str) -> None:
    page = methods.written(name, FILES[name])
    titles = re.findall(r"(?m)^## (.*)$", page)
    assert [title for title in titles if title != "Notes"] == [
        title for title in methods.SECTIONS if title != "Notes"
    ]
    parts = dict(zip(titles, re.split(r"(?m)^## .*$", page)[1:], strict=True))
    assert all(part.strip() for part in parts.values())
    assert page.startswith(f"# {name}\n")
    for f in fields(METHODS[name]):
        (row,) = (line for line in parts["Arguments"].splitlines() if line.startswith(f"| `{f.name}` |"))
        assert len(row.split(" | ")[-1].rstrip(" |")) > 5, row
    assert re.search(r"^\| `.+` \| [\d,.]+ MB", parts["What is held"], flags=re.MULTILINE)
    others = set(re.findall(r"\[`(\w+)`\]\(\w+\.md\)", parts["Together with others"]))
    assert others >= METHODS.keys() - {name}


@every_method
def test_a_link_of_a_page_leads_somewhere(name: str) -> None:
    here = methods.ROOT / "docs" / methods.PAGES
    for link in re.findall(r"\]\(([^)#\s]+)", methods.written(name, FILES[name])):
        assert link.startswith("https://") or (here / link).exists(), link


def test_what_is_refused_is_said_with_its_reason() -> None:
    page = methods.together("lora")
    refused = next(part for part in page.split("\n\n") if "which parameters train" in part)
    assert "`paca`" in refused
    assert "`mesa`" not in refused
    assert "`mesa`" in page.split("\n\n")[0]  # what it goes with
    assert methods.refusal("lora", "mesa") is None


def test_accuracies_are_the_rows_of_the_kept_table() -> None:
    rows = (methods.ROOT / methods.TABLE).read_text().splitlines()
    said = [line for line in methods.accuracy("approxbp").splitlines() if line.startswith("| `")]
    assert said
    assert said == [row for row in rows if row.startswith("| `") and "approxbp" in row]
    assert "is of it" in methods.accuracy("offload")


def test_all_are_listed_with_their_pages() -> None:
    listed = methods.listed()
    assert all(f"| [`{name}`](methods/{name}.md) |" in listed for name in METHODS)


def test_a_file_that_says_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="'What is held'"):
        methods.sections("# lora\n\n## Mathematics\n\ny = W·x\n")
    with pytest.raises(ValueError, match="'Price'"):
        methods.sections("# lora\n\n## Mathematics\n\ny\n\n## What is held\n\nx\n\n## Price\n\nlow\n")
