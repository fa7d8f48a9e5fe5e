"""The tutorial: every command of it runs, and its page shows what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bsr_explorer import cli
from studies.tutorial import run as tutorial

PAGE = tutorial.PAGE.read_text()

SMALL = {
    "search": "--trials 1 --replicas 0 --proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random",
    "train": "--proxy-size 32 --train-size 32 --val-size 32 --epochs 1 --weights random",
}
"""What makes a command a matter of seconds; of an option given twice the last one counts."""


def test_the_page_shows_what_each_block_printed() -> None:
    found = list(tutorial.BLOCK.finditer(PAGE))
    assert len(found) == PAGE.count("```bash") + PAGE.count("```python") == 5
    assert all(match["output"].strip() for match in found)
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE):
        assert (tutorial.HERE / target).is_file(), target


def test_outputs_are_put_where_they_belong() -> None:
    page = "a\n```bash\none\n```\n\n```\nold\n```\nb\n```python\ntwo\n```\n\n```\n```\nc\n"
    assert [(step.language, step.code) for step in tutorial.steps(page)] == [
        *(("bash", "one\n"), ("python", "two\n"))
    ]
    new = tutorial.filled(page, [r"1\n", "2\n"])
    assert new == "a\n```bash\none\n```\n\n```\n" + r"1\n" + "```\nb\n```python\ntwo\n```\n\n```\n2\n```\nc\n"


def test_a_block_runs_in_the_folder_and_its_failure_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    assert tutorial.run(tutorial.Step("bash", "ls"), tmp_path) == "there\n"
    assert tutorial.run(tutorial.Step("python", "print(1, end='')"), tmp_path) == "1\n"
    with pytest.raises(SystemExit) as end:
        tutorial.run(tutorial.Step("bash", "exit 3"), tmp_path)
    assert end.value.code == 3


@pytest.mark.thorough
@pytest.mark.long
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for step in tutorial.steps(PAGE):
        if step.language == "python":
            exec(step.code.replace("112", "32"), {})
            continue
        (line,) = step.code.splitlines()
        words = shlex.split(line)
        monkeypatch.setattr("sys.argv", [*words, *shlex.split(SMALL.get(words[1], ""))])
        try:
            cli.main()
        except SystemExit as end:
            assert end.code in (None, 0), line
