"""How far are the gradients of methods that store less from exact ones, on real weights and data?

    python benchmarks/fidelity.py

For each setting: whether the forward pass is bit for bit that of the plain model, the relative error of all
gradients together (the norm of the difference over the norm of the exact gradients, of the same trained
parameters), their cosine, the error of the mean over several draws of stochastic rounding (of a biased
storage it stays), the weight gradient's worst block, and what an image's activations take, measured. Running
ranges have seen ``--warm`` batches before. About 6 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn

from bsr_explorer import Config, Fidelity, build
from bsr_explorer.data.loader import loader
from bsr_explorer.finetune.job import Job, load_data
from bsr_explorer.measurement.saved import saved_storages
from bsr_explorer.methods import METHODS, Bsr, Method
from bsr_explorer.methods.composed import Composed
from bsr_explorer.methods.storing import Storing
from bsr_explorer.prediction import predict

SETTINGS = (
    "backrazor(ratio=0, values='fp32', gelu='dense')",
    "backrazor(ratio=0.7)",
    "backrazor(ratio=0.8)",
    "backrazor(ratio=0.9)",
    "backrazor(ratio=0.9, quantize=8)",
    "backrazor(ratio=0.9, gelu='sparse')",
    "backrazor(ratio=0.95)",
    "backrazor(ratio=0.9, faithful=False)",
    "mesa",
    "mesa(ema=0)",
    "mesa(groups='tensor')",
    "mesa(bits=4)",
    "mesa(faithful=False)",
    "mesa(groups='channels')",
    "mesa(bits=4, faithful=False)",
    "bsr(faithful=False)",
    "bsr+mesa",
    "bsr+mesa(faithful=False)",
    "bsr+backrazor(ratio=0.8)",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--weights", default="offline")
    parser.add_argument("--methods", action="append", help="a setting; may be given several times")
    parser.add_argument("--draws", type=int, default=4, help="of stochastic rounding")
    parser.add_argument("--warm", type=int, default=4, help="batches that running ranges have seen before")
    parser.add_argument("--out", type=Path, help="a folder for fidelity.json and fidelity.md")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = Config(options.model, options.image_size, batch_size=options.batch_size, method="full")
    images = batches(config, options.data, options.weights, options.warm + 1)
    rows = []
    for setting in track(options.methods or SETTINGS, "comparing", disable=options.json):
        rows.append(compare(config.with_method(setting), options.weights, images, options.draws))
    head = f"{options.model}, {options.image_size} px, batch {options.batch_size}, {options.data}, "
    head += f"{options.weights} weights"
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fidelity.json").write_text(json.dumps({"of": head, "rows": rows}, indent=1) + "\n")
        (options.out / "fidelity.md").write_text(table(head, rows))
    print(json.dumps(rows) if options.json else table(head, rows))


def table(head: str, rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        f"{head}; relative errors of gradients against exact ones",
        "",
        "| method | forward | error | cosine | error of the mean | worst block | MiB an image | saved, of plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['method']}` | {'bit-equal' if row['forward_equal'] else 'DIFFERS'} | {row['error']:.4f} "
            f"| {row['cosine']:.4f} | {row['error_of_mean']:.4f} | {row['worst_block_error']:.4f} "
            f"| {row['saved_bytes'] / row['images'] / 2**20:.2f} "
            f"| {row['saved_bytes'] / row['plain_saved_bytes']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def batches(config: Config, data: str, weights: str, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first batches of a data set's training split."""
    fidelity = Fidelity(train_size=max(count * config.batch_size, 10 * config.num_classes), val_size=100)
    splits = load_data(config, Job(data, fidelity, weights))
    return list(islice(loader(splits.train, config.batch_size, shuffle=True, seed=0, drop_last=True), count))


def exact_of(method: Method) -> Method:
    """The method with every tensor stored as it is, and gradients as its authors have them."""
    parts = [
        replace(part, faithful=True) if isinstance(part, Bsr) else part
        for part in getattr(method, "parts", (method,))
        if not isinstance(part, Storing)
    ]
    return Composed(tuple(parts)) if len(parts) > 1 else parts[0] if parts else METHODS["full"]()


def compare(
    config: Config, weights: str, images: list[tuple[torch.Tensor, torch.Tensor]], draws: int
) -> dict[str, Any]:
    """One row: a method against the same one that stores everything as it is, on the last batch."""
    parts = getattr(config.how, "parts", (config.how,))
    explicit = any(isinstance(part, Storing) and part.explicit_softmax for part in parts)
    plain = replace(config, method=exact_of(config.how), attention="math" if explicit else config.attention)
    net, reference = build(config, weights=weights).train(), build(plain, weights=weights).train()
    for batch in images[:-1]:
        gradients(net, batch)
    batch = images[-1]
    exact = flat(gradients(reference, batch))
    drawn = []
    for draw in range(draws):
        torch.manual_seed(draw)
        drawn.append(gradients(net, batch))
    errors = [float((flat(found) - exact).norm() / exact.norm()) for found in drawn]
    mean = torch.stack([flat(found) for found in drawn]).mean(0)
    of_blocks = blocks(gradients(reference, batch)), blocks(drawn[0])
    return {
        "method": str(config.method),
        "forward_equal": torch.equal(net(batch[0]), reference(batch[0])),
        "error": sum(errors) / len(errors),
        "cosine": float(F.cosine_similarity(flat(drawn[0]), exact, dim=0)),
        "error_of_mean": float((mean - exact).norm() / exact.norm()),
        "worst_block_error": max(
            float((of_blocks[1][block] - value).norm() / value.norm())
            for block, value in of_blocks[0].items()
        ),
        "images": len(batch[1]),
        "saved_bytes": saved(net, batch),
        "predicted_saved_bytes": predict(config).saved_bytes,
        "plain_saved_bytes": saved(reference, batch),
    }


def gradients(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of every trained parameter."""
    net.zero_grad()
    F.cross_entropy(net(batch[0]), batch[1]).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def flat(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """All gradients in one vector, in double precision."""
    return torch.cat([g.flatten() for g in found.values()]).double()


def blocks(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by block."""
    names = dict.fromkeys(name.split(".")[1] for name in found if name.startswith("blocks."))
    return {b: flat({n: g for n, g in found.items() if n.startswith(f"blocks.{b}.")}) for b in names}


def saved(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Bytes that autograd holds after forward and loss."""
    with saved_storages(net, batch) as watch:
        loss = F.cross_entropy(net(batch[0]), batch[1])
        size = sum(row.bytes for row in watch.rows())
    del loss
    return size


if __name__ == "__main__":
    main()
