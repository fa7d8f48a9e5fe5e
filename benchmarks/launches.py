"""How many kernels does a step launch to pack and unpack what blocks keep: by torch's operations, and by our own?

    python benchmarks/launches.py

Runs a step (forward and backward) of each method on the CPU as CUDA's record says (how much is packed at once, rows
together), and counts what is dispatched within ``pack`` and ``unpack``: every operation that is no view and does more
than allocate, which a GPU launches as one kernel at least (a sum or a selection by a mask as several: what stands
there is too little, then). With kernels of our own their launches count beside what is left to torch; they are not run,
so that no GPU and no Triton interpreter is needed, and what is unpacked is whatever memory held. At most 2,500 are
expected by our own. Large batches take more of torch's, which packs them part by part. About a minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bsr_explorer import Config, build
from bsr_explorer.devices import CPU, CUDA, DEVICES
from bsr_explorer.methods import parse_methods
from bsr_explorer.storages import Narrow, Quantized, Sparse, fused

METHODS = "mesa, mesa(bits=4), mesa(faithful=False), backrazor, backrazor(faithful=False)"

ALLOCATE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "detach",
}
"""Operations that launch nothing, beside views."""


@dataclass
class Counts:
    """Of one step.

    Attributes:
        packed: how many tensors were packed.
        unpacked: how often one was unpacked.
        launches: by operation or kernel.
    """

    packed: int = 0
    unpacked: int = 0
    launches: Counter[str] = field(default_factory=Counter)


class _Dispatched(TorchDispatchMode):
    """Counts operations of torch."""

    def __init__(self, launches: Counter[str]) -> None:
        super().__init__()
        self.launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run it."""
        name = func.overloadpacket.__name__
        if not func.is_view and name not in ALLOCATE:
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(counts: Counts, fuses: bool) -> Iterator[None]:
    """Within it, tensors on the CPU are packed as on CUDA, and what this launches is counted.

    Args:
        fuses: by kernels of our own, where there are some.
    """
    record = replace(CPU, packs_rows=CUDA.packs_rows, at_once=CUDA.at_once, packs_fused=fuses)

    def counted(run: Callable[..., Any], what: str) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            setattr(counts, what, getattr(counts, what) + 1)
            with _Dispatched(counts.launches):
                return run(*args, **kwargs)

        return instead

    def launch(kernel: Any, *_: Any, **__: Any) -> None:
        counts.launches[f"our {kernel.__name__}"] += 1

    with ExitStack() as stack:
        stack.enter_context(patch.dict(DEVICES, cpu=record))
        stack.enter_context(patch.object(fused, "launch", launch))
        stack.enter_context(patch.object(fused, "usable", lambda device: True))
        for packing in (Narrow, Quantized, Sparse):
            stack.enter_context(patch.object(packing, "pack", counted(packing.pack, "packed")))
            stack.enter_context(patch.object(packing, "unpack", counted(packing.unpack, "unpacked")))
        yield


def count(config: Config, fuses: bool) -> Counts:
    """What packing and unpacking launch in a step of a configuration (on the CPU, as on CUDA)."""
    model, counts = build(config).train(), Counts()
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    with counting(counts, fuses):
        model(images).sum().backward()
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--methods", default=METHODS, help="expressions, separated by commas")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for method in parse_methods(options.methods):
        config = Config(
            options.model, options.image_size, batch_size=options.batch_size, device="cpu"
        ).with_method(method)
        theirs, ours = (count(config, fuses) for fuses in (False, True))
        rows.append(
            {
                "method": str(method),
                "packed": ours.packed,
                "unpacked": ours.unpacked,
                "torch": theirs.launches.total(),
                "fused": ours.launches.total(),
                "by_kernel": dict(ours.launches.most_common()),
            }
        )
    if options.json:
        print(json.dumps({"model": options.model, "batch_size": options.batch_size, "rows": rows}))
        return
    print(
        f"{options.model}, {options.image_size} px, batch {options.batch_size}; launches of a step's packing:"
    )
    print("| method | tensors packed | unpacked | by torch's operations | by kernels of our own |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['method']}` | {row['packed']} | {row['unpacked']} | {row['torch']:,} | {row['fused']:,} |"
        )


if __name__ == "__main__":
    main()
