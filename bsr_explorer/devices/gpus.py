"""NVIDIA GPUs, as far as memory depends on them: a table, one line a card.

Figures of NVIDIA's data sheets and of the CUDA programming guide's table of compute capabilities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bsr_explorer.errors import unknown

MiB, GB, GiB = 2**20, 10**9, 2**30


@dataclass(frozen=True)
class Gpu:
    """A card.

    Attributes:
        name: as ``--gpu`` takes it.
        title: as a sentence names it.
        capability: compute capability, (9, 0) of a Hopper.
        multiprocessors: how many it has; reductions over many rows are shared out among them.
        memory: bytes; 0 where it is not known.
    """

    name: str
    title: str
    capability: tuple[int, int]
    multiprocessors: int
    memory: int = 0

    @property
    def threads(self) -> int:
        """Threads that one multiprocessor holds at most."""
        return _THREADS.get(self.capability, 2048)


_THREADS = {
    (7, 5): 1024,
    (8, 6): 1536,
    (8, 7): 1536,
    (8, 9): 1536,
    (11, 0): 1536,
    (12, 0): 1536,
    (12, 1): 1536,
}

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("v100", "V100", (7, 0), 80, 32 * GiB),
        Gpu("t4", "T4", (7, 5), 40, 16 * GiB),
        Gpu("a100", "A100", (8, 0), 108, 80 * GiB),
        Gpu("a10", "A10", (8, 6), 72, 24 * GiB),
        Gpu("rtx3090", "RTX 3090", (8, 6), 82, 24 * GiB),
        Gpu("orin", "Jetson AGX Orin", (8, 7), 16, 64 * GiB),
        Gpu("orin_nano", "Jetson Orin Nano", (8, 7), 8, 8 * GiB),
        Gpu("l4", "L4", (8, 9), 58, 24 * GiB),
        Gpu("rtx4090", "RTX 4090", (8, 9), 128, 24 * GiB),
        Gpu("h100", "H100", (9, 0), 132, 80 * GiB),
        Gpu("h200", "H200", (9, 0), 132, 141 * GB),
        Gpu("b200", "B200", (10, 0), 148, 180 * GB),
        Gpu("rtx5090", "RTX 5090", (12, 0), 170, 32 * GiB),
    )
}
"""The cards that have a name."""

CONTEXT = 512 * MiB
"""Bytes that a process holds on a card beside what torch's allocator takes: the driver's context, and the kernels that
its libraries load. An estimate, not measured here: torch's issues report 256 to 426 MiB before any work is done (with
kernels loaded as they are needed, as torch does since CUDA 11.7), and a training step loads more. It depends on card,
driver and libraries."""

DEFAULT = "h100"
"""Predicted for where no card is named, and none is there."""

_ANY = re.compile(r"sm_([5-9]|1[0-9])([0-9])x([0-9]{1,4})")


def gpu_of(name: str) -> Gpu:
    """The card of this name, or one that says what it is: ``sm_90x132`` has compute capability 9.0 and 132
    multiprocessors.

    Raises:
        UserError: it is neither.
    """
    name = name.lower()
    if name in GPUS:
        return GPUS[name]
    if found := _ANY.fullmatch(name):
        major, minor, multiprocessors = map(int, found.groups())
        if multiprocessors:
            return Gpu(name, f"a GPU of compute capability {major}.{minor}", (major, minor), multiprocessors)
    raise unknown("--gpu", name, [*GPUS, "sm_<capability>x<multiprocessors>, such as sm_90x132"])


def name_of(title: str, capability: tuple[int, int], multiprocessors: int) -> str:
    """The name of a card that was found: the table's where it is one of it, else what it is."""
    for gpu in GPUS.values():
        if gpu.title.split()[-1] in title.split() and (capability, multiprocessors) == (
            gpu.capability,
            gpu.multiprocessors,
        ):
            return gpu.name
    return f"sm_{capability[0]}{capability[1]}x{multiprocessors}"
