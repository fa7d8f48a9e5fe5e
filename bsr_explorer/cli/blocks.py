"""``bsr-explore blocks``: what was found in a model, and how to correct it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bsr_explorer.cli import options
from bsr_explorer.cli.console import out, table
from bsr_explorer.models.architecture import architecture_of, geometry
from bsr_explorer.models.names import timm_name
from bsr_explorer.naming import Naming
from bsr_explorer.prediction import plain_tape
from bsr_explorer.tape import Tape


def blocks(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model takes it.")],
    image_size: options.ImageSize = 224,
    num_classes: options.Classes = 10,
    as_json: options.Json = False,
) -> None:
    """Show the blocks, the head and the norms of a model, as methods see them. Indices are 0-based.

    What was found by structure can be corrected: the last lines are a file that --model takes.

    Examples:

      bsr-explore blocks swin_tiny_patch4_window7_224
    """
    found = geometry(model, image_size, num_classes)
    tape = plain_tape(model, image_size, num_classes)
    naming, rows = tape.naming, _rows(tape)
    if as_json:
        print(json.dumps({"model": model, "blocks": rows, "file": _said(model, naming)}))
        return
    heads = ["block", "module", "parameters", f"output of {architecture_of(model).takes.one}"]
    shown = [
        [str(row["block"]), row["module"], f"{row['parameters']:,}", _shape(row["output"])] for row in rows
    ]
    out.print(table(heads, shown, left=(1, 3)))
    total = sum(p.numel for p in tape.parameters.values())
    out.print(f"{model}: {found.depth} blocks, {total:,} parameters", markup=False)
    if not found.depth:
        out.print("No blocks were found: name their modules in a file, as below.")
    if architecture_of(model).corrected:
        out.print("\nTo correct this, save as model.toml, and say --model model.toml:\n")
        out.print(_toml(_said(model, naming)), markup=False, highlight=False)


def _rows(tape: Tape) -> list[dict[str, Any]]:
    """One a block."""
    rows = []
    for block in range(len(tape.blocks)):
        ops = [op for op in tape if op.block == block]
        last = tape.tensors[ops[-1].writes] if ops else None
        own = sum(p.numel for p in tape.parameters.values() if p.block == block)
        output = list(last.shape[1:]) if last else []
        rows.append({"block": block, "module": tape.naming.path(block), "parameters": own, "output": output})
    return rows


def _shape(sizes: list[int]) -> str:
    return " × ".join(f"{size:,}" for size in sizes)


def _said(model: str, naming: Naming) -> dict[str, Any]:
    """What a file would say of it."""
    from bsr_explorer.models.traced.described import described, is_described

    name = timm_name(model)
    own = described(name) if is_described(name) else None
    loss = {"loss": own.loss} if own is not None and own.loss is not None else {}
    return {
        "model": own.model if own is not None else name,
        "blocks": list(naming.paths) or [f"{naming.blocks}.*"],
        "head": [path.removesuffix(".") for path in naming.head],
        "final_norm": [path.removesuffix(".") for path in naming.final_norm],
        **loss,
    }


def _toml(said: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in said.items())
