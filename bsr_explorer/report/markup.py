"""Tables of text as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def latex(frame: pd.DataFrame, caption: str, bold: Mapping[str, Sequence[bool]]) -> str:
    """A LaTeX table of cells of text, for the packages booktabs and (for wide ones) graphicx.

    Args:
        bold: for columns, which of their cells are.
    """
    shown = frame.map(_tex)
    if "method" in shown:
        shown["method"] = [f"\\texttt{{{method}}}" for method in shown["method"]]
    for name, which in bold.items():
        if name in shown:
            shown[name] = [
                f"\\textbf{{{cell}}}" if is_best and cell else cell
                for cell, is_best in zip(shown[name], which, strict=True)
            ]
    shown.columns = [_tex(str(name)) for name in shown]
    aligned = "".join("l" if name == "method" else "r" for name in frame)
    rows = shown.to_latex(index=False, escape=False, column_format=aligned).strip()
    lines = ["% needs: \\usepackage{booktabs,graphicx}", "\\begin{table}", "\\centering"]
    lines += [
        f"\\caption{{{_tex(caption)}}}",
        "\\resizebox{\\linewidth}{!}{%",
        f"{rows}}}",
        "\\end{table}",
        "",
    ]
    return "\n".join(lines)


_TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "→": r"$\to$",
        "−": r"$-$",
        "–": "--",
        "—": "---",
    }
)


def _tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(_TEX)


def markdown(frame: pd.DataFrame, as_text: bool = False) -> str:
    """A Markdown table with expressions in code; ``as_text``: cells as they are, ``90.0`` not as ``90``."""
    shown = frame.copy()
    if "method" in shown:
        shown["method"] = [f"`{method}`" for method in shown["method"]]
    aligned = ["left" if name == "method" else "right" for name in shown]
    text: dict[str, Any] = {"disable_numparse": True, "colalign": aligned} if as_text else {}
    return str(shown.to_markdown(index=False, **text))
