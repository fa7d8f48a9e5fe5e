"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(help="An alias (see `list models`) or the timm name of a vision transformer.")
]
Method = Annotated[
    str, typer.Option(help="A method expression, such as 'bsr' or 'last(k=3)' (see `list methods`).")
]
ImageSize = Annotated[int, typer.Option(help="Side of the images, in pixels, at which memory is counted.")]
BatchSize = Annotated[int, typer.Option(help="Images a step.")]
Classes = Annotated[int, typer.Option("--num-classes", help="Outputs of the head.")]
Precision = Annotated[str, typer.Option(help="Number format: fp32.")]
Optimizer = Annotated[str, typer.Option(help="adamw, sgd or sgd_momentum.")]
Attention = Annotated[str, typer.Option(help="fused (one kernel) or math (explicit softmax).")]
Weights = Annotated[
    str, typer.Option(help="auto (hub, else offline), hub, offline, random, or a .safetensors or .pth file.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is random.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
DataDir = Annotated[Path | None, typer.Option(help="Where datasets lie, or are downloaded to.")]
