"""A browser without a network, and studies to look at in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bsr_explorer.cli.study_report import layout_of
from bsr_explorer.report.page import page as pages
from bsr_explorer.report.study.findings import Findings
from bsr_explorer.store.records import read_records, write_record

CHROMIUM = (
    os.environ.get("BSR_EXPLORER_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)
"""The browser to look with."""

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

_HOSTILE = "</script><script>document.title='broken into'</script><img src=http://example.org/x onerror=alert(1)>&amp;"


@pytest.fixture(scope="session")
def hostile() -> str:
    """What a page must show as the text that it is."""
    return _HOSTILE


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip(
            "no Chromium here: install Debian's package chromium, or set BSR_EXPLORER_CHROMIUM to one"
        )
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


@dataclass
class Look:
    """A page that is open, and what went wrong in it.

    Attributes:
        page: Playwright's.
        said: messages on the console, and errors.
        asked: addresses that it asked for.
    """

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


Open = Callable[..., Look]


@pytest.fixture
def look(browser: Any) -> Iterator[Open]:
    """Opens a file with the network off; at the end, nothing may have been said or asked for."""
    opened: list[tuple[Any, Look, str]] = []

    def open_it(path: Path, width: int = 1280, height: int = 900, **context: Any) -> Look:
        made = browser.new_context(viewport={"width": width, "height": height}, offline=True, **context)
        seen = Look(made.new_page())
        seen.page.set_default_timeout(10_000)
        seen.page.on("console", lambda message: seen.said.append(message.text))
        seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        seen.page.goto(path.as_uri())
        opened.append((made, seen, path.as_uri()))
        return seen

    yield open_it
    for context, seen, address in opened:
        context.close()
        assert seen.said == []
        assert {url.split("#")[0] for url in seen.asked} == {address}


@pytest.fixture(scope="session")
def troubled(finished_once: Path, hostile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with fresh seeds, and with trials that stopped or failed for reasons that would break a page. Not to be
    changed."""
    folder = Path(shutil.copytree(finished_once, tmp_path_factory.mktemp("troubled") / "toy-study"))
    records = read_records(folder)
    found = Findings.read(folder)
    number = len(records)
    for place, point in enumerate(found.front[-2:]):
        for replica in (1, 2, 3):
            study = {**point.record.study, "replica": replica, "number": number}
            accuracy = min(1.0, 0.5 + 0.1 * place + 0.03 * replica)
            write_record(folder, number, replace(point.record, accuracy=accuracy, study=study))
            number += 1
    lost: dict[str, Any] = {"accuracy": None, "measured": None}
    for status, reason in (
        ("failed", hostile),
        ("diverged", "the loss was nan"),
        ("stopped", "behind by epoch 1"),
    ):
        write_record(folder, number, replace(records[2], status=status, reason=reason, **lost))
        number += 1
    return folder


@pytest.fixture(scope="session")
def written(troubled: Path) -> Path:
    """The page of that study."""
    return pages.write(Findings.read(troubled), troubled, layout_of(troubled))
