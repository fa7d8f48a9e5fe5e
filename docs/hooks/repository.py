"""Files of the repository that pages link to come into the site, under the path that they have in the repository.

So a link such as ``../studies/tutorial/README.md`` works on a code host and on the site alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs/"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
"""The path of a Markdown link or picture, without its anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of ``docs/``, and what the pages among that link to."""
    pages = [(DOCS + page.src_uri, page.content_string) for page in files.documentation_pages()]
    while pages:
        path, text = pages.pop()
        for target in _outside(path, text):
            if files.get_file_from_path(target) is None:
                added = File(target, str(ROOT), config.site_dir, config.use_directory_urls)
                files.append(added)
                if added.is_documentation_page():
                    pages.append((target, added.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between ``docs/`` and the rest of the repository into links of the site."""
    here = _in_repository(page.file)

    def on_the_site(link: re.Match[str]) -> str:
        target = normpath(join(dirname(here), link[0]))
        if not (ROOT / target).is_file():
            return link[0]
        return relpath(target.removeprefix(DOCS), dirname(page.file.src_uri) or ".")

    return LINK.sub(on_the_site, markdown)


def _in_repository(file: File) -> str:
    return file.src_uri if file.src_dir == str(ROOT) else DOCS + file.src_uri


def _outside(page: str, text: str) -> Iterator[str]:
    """Files of the repository that a page links to, without those in ``docs/``."""
    for link in LINK.findall(text):
        target = normpath(join(dirname(page), link))
        if not target.startswith(("..", DOCS)) and (ROOT / target).is_file():
            yield target
