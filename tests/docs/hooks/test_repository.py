"""Links between the pages and the rest of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.hooks import repository


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MkDocsConfig:
    """A repository with a page, and beside its ``docs`` a page with a picture."""
    for path, text in {
        "docs/guides/one.md": "[more](../../studies/more.md#part) and [two](two.md) and [none](../../gone.md)",
        "docs/guides/two.md": "",
        "studies/more.md": "![picture](pictures/it.png) and [back](../docs/guides/one.md)",
        "studies/pictures/it.png": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    config = MkDocsConfig()
    config.load_dict(
        {"site_name": "x", "docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site")}
    )
    return config


def test_what_pages_link_to_comes_along_and_links_lead_there(config: MkDocsConfig) -> None:
    pages = [
        File(path, config.docs_dir, config.site_dir, False) for path in ("guides/one.md", "guides/two.md")
    ]
    files = repository.on_files(Files(pages), config)
    assert {file.src_uri for file in files} == {
        "guides/one.md",
        "guides/two.md",
        "studies/more.md",
        "studies/pictures/it.png",
    }

    def shown(path: str) -> str:
        file = files.get_file_from_path(path)
        assert file is not None
        return repository.on_page_markdown(file.content_string, Page(None, file, config), config, files)

    assert (
        shown("guides/one.md")
        == "[more](../studies/more.md#part) and [two](two.md) and [none](../../gone.md)"
    )
    assert shown("studies/more.md") == "![picture](pictures/it.png) and [back](../guides/one.md)"
