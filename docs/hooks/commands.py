"""The reference of the commands, written from the commands themselves."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from bsr_explorer.cli import app

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the reference where a page says so."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """Every command with its usage, what it does, examples, arguments and options, as Markdown."""
    if not app.app.registered_commands:
        app._register([])
    root: Any = typer.main.get_command(app.app)
    return "\n\n".join(_command(name, command) for name, command in root.commands.items())


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = command.get_usage(context).replace("Usage: ", "bsr-explore ")
    said, _, examples = inspect.cleandoc(command.help).partition("Examples:")
    parts = [f"## {name}", _text(said.strip()), f"```text\n{usage}\n```"]
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    if lines:
        parts.append("\n".join(["```bash", *lines, "```"]))
    for kind in ("argument", "option"):
        records = [one.get_help_record(context) for one in command.params if one.param_type_name == kind]
        if records:
            rows = [f"| `{_cell(flags)}` | {_cell(_text(help_))} |" for flags, help_ in records]
            parts.append("\n".join([f"| {kind} | what it is |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _text(text: str) -> str:
    """Help as Markdown: flags are code, and so are defaults."""
    text = re.sub(r"(?<![`\w-])(--[a-z][a-z-]+)(?!`)", r"`\1`", text)
    text = re.sub(r"<(\w+)>", r"&lt;\1&gt;", text)
    return re.sub(r"\s*\[default: \(?(.*?)\)?\]$", r" Default: `\1`.", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
