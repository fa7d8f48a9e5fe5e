"""A page for each method, from one template.

What only a person can say stands in ``docs/reference/methods/<method>.md``: the mathematics, what is held, notes. All
else is written here when the site is built, from the code itself: what it does, predicted bytes, arguments, what it
goes with and what is refused beside it, the accuracy of the kept table, what is left when training is over, the source.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from bsr_explorer.cli.listing import EXAMPLE
from bsr_explorer.errors import UserError
from bsr_explorer.ledger import Ledger
from bsr_explorer.methods import METHODS, Method, parse_method
from bsr_explorer.methods.adding import LAYERS
from bsr_explorer.methods.base import PARAMETERS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.prediction import geometry_of, predict, tape_of

ROOT = Path(__file__).parents[2]
PAGES = "reference/methods/"
MARK = "<!-- methods -->"
TABLE = "reports/examples/methods/methods.md"
"""The kept table of trainings of all methods."""

BY_HAND = ("Mathematics", "What is held", "When training is over", "Notes")
"""Sections that a page's file may have; the first two it must have."""

SECTIONS = (
    "Mathematics",
    "What is held",
    "Arguments",
    "Together with others",
    "Accuracy",
    "When training is over",
    "Notes",
    "Source",
)
"""Of a page, in order. Only notes may be missing."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, behind the page of all methods."""
    pages = [{name: f"{PAGES}{name}.md"} for name in METHODS if (ROOT / f"docs/{PAGES}{name}.md").exists()]
    for part in config["nav"] or []:
        for entries in part.values():
            if isinstance(entries, list) and {"Methods": "reference/methods.md"} in entries:
                entries.insert(entries.index({"Methods": "reference/methods.md"}) + 1, {"Each method": pages})
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Complete the page of a method; put the table of all where a page says so."""
    uri = page.file.src_uri
    if uri.startswith(PAGES):
        return written(Path(uri).stem, markdown)
    return markdown.replace(MARK, listed()) if MARK in markdown else markdown


def listed() -> str:
    """All methods with what they save, each with its page."""
    full = predict(EXAMPLE.with_method("full"))
    rows = []
    for name, method in METHODS.items():
        cost = _cost(name)
        saves = f"{cost.saved_bytes / full.saved_bytes:.2f}x | {cost.peak_bytes / full.peak_bytes:.2f}x"
        rows.append(f"| [`{name}`](methods/{name}.md) | {_cell(method.summary)} | {saves} |")
    head = "| method | what it does | saved | peak |\n|---|---|---|---|"
    return "\n".join([head, *rows]) + (
        f"\n\nSaved, peak: of a step of {_example()}, over those of `full`; of methods that say nothing of what "
        "trains, added to it."
    )


def written(name: str, by_hand: str) -> str:
    """The whole page of a method.

    Args:
        by_hand: what its file says.
    """
    method, said = METHODS[name], sections(by_hand)
    decides = "; ".join(method.chooses) or "what is computed again, or moved"
    made = {
        "Mathematics": said["Mathematics"],
        "What is held": f"{said['What is held']}\n\n{held(name)}",
        "Arguments": arguments(method),
        "Together with others": together(name),
        "Accuracy": accuracy(name),
        "When training is over": said.get("When training is over") or left(method()),
        "Notes": said.get("Notes", ""),
        "Source": _linked(method.citation),
    }
    summary = method.summary[:1].upper() + method.summary[1:]
    body = [f"## {title}\n\n{text}" for title, text in made.items() if text]
    return "\n\n".join([f"# {name}", f"{summary}. It decides: {decides}.", *body]) + "\n"


def sections(by_hand: str) -> dict[str, str]:
    """The sections of a page's file, by title.

    Raises:
        ValueError: one is missing, or is none that a person writes.
    """
    title, *parts = re.split(r"(?m)^## ", by_hand)
    found = {head.strip(): body.strip() for head, _, body in (part.partition("\n") for part in parts)}
    if unknown := [head for head in found if head not in BY_HAND]:
        raise ValueError(f"{title.strip()}: sections {unknown} are none of {BY_HAND}")
    if missing := [head for head in BY_HAND[:2] if not found.get(head)]:
        raise ValueError(f"{title.strip()}: sections {missing} are missing")
    return found


# --- what is written ------------------------------------------------------------------------------------


def held(name: str) -> str:
    """What a step is predicted to hold, beside full fine-tuning."""
    full, cost = predict(EXAMPLE.with_method("full")), _cost(name)
    columns = (_example(), "saved for backward", "gradients and optimiser", "peak", "FLOPs a step")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    rows = [_costs("full", full, full)] if name != "full" else []
    return "\n".join([f"Predicted, to the byte:\n\n{head}", *rows, _costs(_shown(name), cost, full)])


def _costs(method: str, cost: Ledger, full: Ledger) -> str:
    def over(mine: int, theirs: int) -> str:
        return f" ({mine / theirs:.2f}x)" if cost is not full else ""

    trained, theirs = (each.bytes_of("gradient", "optimizer") for each in (cost, full))
    return (
        f"| `{method}` | {cost.saved_bytes / 1e6:,.1f} MB{over(cost.saved_bytes, full.saved_bytes)} "
        f"| {trained / 1e6:,.1f} MB{over(trained, theirs)} "
        f"| {cost.peak_bytes / 1e6:,.1f} MB{over(cost.peak_bytes, full.peak_bytes)} "
        f"| {cost.train_flops / 1e9:,.1f} G{over(cost.train_flops, full.train_flops)} |"
    )


def arguments(method: type[Method]) -> str:
    """Each argument with its default and what it is."""
    plain = method()
    rows = [
        f"| `{f.name}` | `{_cell(repr(getattr(plain, f.name)))}` | {_cell(said_of(method, f.name))} |"
        for f in fields(method)
    ]
    return "\n".join(["| argument | default | what it is |", "|---|---|---|", *rows]) if rows else "None."


def said_of(method: type[Method], argument: str) -> str:
    """What the docstring of a method's class says of an argument, or that of a class that it is made of."""
    for each in method.__mro__:
        said = _attributes(each).get(argument, "")
        if said and not said.startswith("see ``"):
            return re.sub(r"``(.+?)``", _named, said)
    raise ValueError(f"{method.__name__}: no docstring says what {argument} is")


def _named(code: re.Match[str]) -> str:
    """Code of a docstring on a page: what stands there for a method becomes its page, for layers their names."""
    classes = {of.__name__: name for name, of in METHODS.items()}
    if code[1] == "adding.LAYERS":
        return ", ".join(f"`{layer}`" for layer in LAYERS)
    name = classes.get(code[1], code[1].removeprefix("methods."))
    return f"[`{name}`]({name}.md)" if name in METHODS and name != code[1] else f"`{code[1]}`"


def _attributes(of: type[Any]) -> dict[str, str]:
    doc = inspect.cleandoc(vars(of).get("__doc__") or "")
    _, _, part = doc.partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n {4}(?=\w[\w, ]*: )", "\n" + part.split("\n\n")[0]):
        names, _, said = entry.strip().partition(": ")
        for name in names.split(", "):
            found[name] = " ".join(said.split())
    return found


def together(name: str) -> str:
    """What it goes with, and what is refused beside it and why."""
    goes, refused = list[str](), dict[str, list[str]]()
    for other in METHODS:
        if other == name:
            continue
        reason = refusal(*sorted((name, other), key=[*METHODS].index))
        if reason is None:
            goes.append(other)
        else:
            refused.setdefault(_of(reason, name, other), []).append(other)
    parts = [f"Goes with {_names(goes)}."] if goes else ["Goes with no other method."]
    parts += [f"Refused beside it: {_names(others)}. {reason}" for reason, others in refused.items()]
    return "\n\n".join(parts)


@cache
def refusal(one: str, other: str) -> str | None:
    """Why two methods are refused together in the step that costs are shown of; None: they are not."""
    try:
        parse_method(f"{one}+{other}", geometry_of(EXAMPLE)).rewrite(_tape())
    except UserError as error:
        return str(error).removeprefix("--method: ")
    return None


def _of(reason: str, name: str, other: str) -> str:
    """A reason as it is said of one of both methods, whatever the other is called."""
    if choice := re.search(r"both choose (.*?); keep one", reason):
        return f"Both would choose {choice[1]}."
    geometry = geometry_of(EXAMPLE)
    for text, instead in ((str(parse_method(other, geometry)), "the other"), (other, "the other")):
        reason = re.sub(rf"(?<![\w`]){re.escape(text)}(?!\w)", instead, reason)
    reason = re.sub(rf"(?<![\w`]){re.escape(str(parse_method(name, geometry)))}(?!\w)", f"`{name}`", reason)
    return f"{reason[:1].upper()}{reason[1:]}."


def accuracy(name: str) -> str:
    """The rows of the kept table in which it trains, alone or with others."""
    head, rule, *rows = (line for line in (ROOT / TABLE).read_text().splitlines() if line.startswith("|"))
    own = [row for row in rows if name in {part.name for part in parts_of(parse_method(row.split("`")[1]))}]
    if not own:
        kept = f"[table of all methods](../../../{TABLE.replace('methods.md', 'README.md')})"
        return f"No training of the {kept} is of it."
    said = next(line for line in (ROOT / TABLE).read_text().splitlines() if line.startswith("deit_s"))
    return "\n".join([f"{said}\n", head, rule, *own])


def left(method: Method) -> str:
    """What is left of it when training is over."""
    after = method.at_inference
    if after is None:
        return "A plain timm model with the trained weights."
    return f"`{_cell(str(after))}` stays: the trained model needs it, and `bx.load` and ONNX files have it."


# --- words ----------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    return name if PARAMETERS in METHODS[name].chooses else f"full+{name}"


@cache
def _cost(name: str) -> Ledger:
    return predict(EXAMPLE.with_method(_shown(name)))


@cache
def _tape() -> Any:
    return tape_of(EXAMPLE.with_method("full"))


def _example() -> str:
    at = EXAMPLE
    return f"{at.model}, {at.image_size} px, {at.batch_size} images, {at.optimizer}, {at.precision}"


def _names(names: list[str]) -> str:
    return ", ".join(f"[`{name}`]({name}.md)" for name in names)


def _linked(citation: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", citation) + "."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> Iterator[tuple[str, str]]:
    """The methods of this package with what their files say."""
    for path in sorted((ROOT / "docs" / PAGES).glob("*.md")):
        yield path.stem, path.read_text()
