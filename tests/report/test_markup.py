"""Tables of text as Markdown and as LaTeX."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bsr_explorer.report.front import front, points
from bsr_explorer.report.markup import latex, markdown
from bsr_explorer.report.study.tables import (
    front_frame,
)
from bsr_explorer.store.records import read_records


def test_markdown_shows_methods_as_code(finished_once: Path) -> None:
    ahead = front(points(read_records(finished_once)))
    frame = front_frame(ahead)
    text = markdown(frame)
    assert len(text.splitlines()) == 2 + len(ahead)
    assert all(f"`{point.method}`" in text for point in ahead)
    assert list(frame["method"]) == [point.method for point in ahead]  # as it was


def test_cells_of_text_stay_as_they_are() -> None:
    frame = pd.DataFrame(
        [{"method": "full", "memory (MB)": "90.0"}, {"method": "bsr", "memory (MB)": "1,247.4"}]
    )
    lines = markdown(frame, as_text=True).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["90.0", "1,247.4"]
    assert lines[1].replace("-", "") == "|:|:|"


def test_what_latex_would_read_as_commands_is_escaped() -> None:
    frame = pd.DataFrame([{"a_b": "50% & {x} #1 $2", "c": "~^\\"}])
    text = latex(frame, "all_of 100%", {})
    assert "a\\_b" in text
    assert "50\\% \\& \\{x\\} \\#1 \\$2" in text
    assert "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in text
    assert "\\caption{all\\_of 100\\%}" in text
