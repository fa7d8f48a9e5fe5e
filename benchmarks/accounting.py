"""BSR, Back Razor and Mesa under one truth, and under each paper's own accounting.

    python benchmarks/accounting.py

ViT-B at 224 px, batch 32, SGD with momentum (the recipe of BSR and of Back Razor for it), 10 classes. The truth is what
torch holds: activations saved for backward and the peak of a whole step, predicted to the byte (``--measure 2``
compares with a real step of two images). Beside it stands what the papers' own rules say of the same step:

* BSR: activations by the authors' profiler plus parameters, frozen ones at 8 bits (``cost.published``).
* Back Razor: the authors' own count, which takes three times the input of queries, keys and values, and so has another
  dense baseline. Its results at this setting are known, its rule only in part: they stand here as they are.
* Mesa: no rule; memory on a GPU as published, DeiT-B (the same geometry) at batch 128, so that only the ratio compares.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsr_explorer import Config, measure, predict
from bsr_explorer.prediction import counted_bytes

MIB = 2**20

BACK_RAZOR_MIB = {"full": 5054, "backrazor(ratio=0.8)": 1431, "backrazor(ratio=0.9)": 1223}
"""As the authors' code counts ViT-B at batch 32."""

MESA_MB = {"full": 17691, "mesa": 8616}
"""As the authors report DeiT-B at batch 128, on a GPU."""

ROWS = (
    ("full", "math"),
    ("full", "fused"),
    ("bsr", "math"),
    ("bsr", "fused"),
    ("backrazor(ratio=0.8)", "math"),
    ("backrazor(ratio=0.9)", "math"),
    ("mesa", "math"),
    ("backrazor(ratio=0.9, faithful=False)", "fused"),
    ("mesa(faithful=False)", "fused"),
    ("bsr+backrazor(ratio=0.8)", "math"),
    ("bsr+mesa", "math"),
    ("bsr+mesa(faithful=False)", "fused"),
    ("checkpoint", "fused"),
    ("bsr+checkpoint", "fused"),
)
"""Method and attention path."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_b")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--measure", type=int, default=0, help="compare with real steps of so many images")
    parser.add_argument("--out", type=Path, help="a folder for accounting.json and accounting.md")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = Config(options.model, batch_size=options.batch_size, optimizer="sgd_momentum", method="full")
    rows = [row(replace(config, method=method, attention=path), options.measure) for method, path in ROWS]
    text = table(config, rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "accounting.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "accounting.md").write_text(text)
    print(json.dumps(rows) if options.json else text)


def row(config: Config, images: int) -> dict[str, Any]:
    """One method under every accounting; ``images``: of a step that is measured, if any."""
    predicted, name = predict(config), next(m for m, _ in ROWS if config.how == config.with_method(m).how)
    found: dict[str, Any] = {
        "method": name,
        "attention": config.attention,
        "saved_bytes": predicted.saved_bytes,
        "peak_bytes": predicted.peak_bytes,
        "train_flops": predicted.train_flops,
        "bsr_accounting_mib": counted_bytes(config, "published") / MIB
        if name in ("full", "bsr") and config.attention == "math"
        else None,
        "back_razor_accounting_mib": BACK_RAZOR_MIB.get(name) if config.attention == "math" else None,
        "mesa_published_mb": MESA_MB.get(name) if config.attention == "math" else None,
    }
    if images:
        small = replace(config, batch_size=images)
        expected, measured = predict(small), measure(small)
        found["missed_saved_bytes"] = measured.saved_bytes - expected.saved_bytes
        found["missed_peak_bytes"] = measured.peak_bytes - expected.peak_bytes
    return found


def table(config: Config, rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, each ratio to full fine-tuning with explicit softmax, as the papers have it."""
    full = rows[0]
    lines = [
        f"{config.model}, {config.image_size} px, batch {config.batch_size}, {config.optimizer}, {config.precision}; "
        "in brackets, how much less than full fine-tuning with an explicit softmax",
        "",
        "| method | attention | saved, MiB an image | peak of a step, MiB | train GFLOPs | BSR's accounting, MiB "
        "| Back Razor's, MiB | Mesa's published, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in rows:
        own = [
            f"{found[key]:.0f} ({full[key] / found[key]:.2f}x)" if found[key] else ""
            for key in ("bsr_accounting_mib", "back_razor_accounting_mib", "mesa_published_mb")
        ]
        lines.append(
            f"| `{found['method']}` | {found['attention']} "
            f"| {found['saved_bytes'] / MIB / config.batch_size:.2f} "
            f"({full['saved_bytes'] / found['saved_bytes']:.2f}x) "
            f"| {found['peak_bytes'] / MIB:.0f} ({full['peak_bytes'] / found['peak_bytes']:.2f}x) "
            f"| {found['train_flops'] / 1e9:.0f} ({full['train_flops'] / found['train_flops']:.2f}x) | "
            + " | ".join(own)
            + " |"
        )
    if "missed_saved_bytes" in full:
        worst = [
            max(abs(found[key]) for found in rows) for key in ("missed_saved_bytes", "missed_peak_bytes")
        ]
        lines += [
            "",
            f"Measured with fewer images: off by {worst[0]} saved bytes, {worst[1]} bytes of the peak.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
