"""Storages: packed forms of the tensors that autograd keeps. One class and one file each."""

from bsr_explorer.storages.base import Packing
from bsr_explorer.storages.itself import Itself
from bsr_explorer.storages.narrow import Narrow
from bsr_explorer.storages.projected import Projected
from bsr_explorer.storages.quantized import Quantized
from bsr_explorer.storages.rebuilt import Rebuilt
from bsr_explorer.storages.sampled import Sampled
from bsr_explorer.storages.sparse import Sparse
from bsr_explorer.storages.steps import Steps
from bsr_explorer.storages.tucker import Tucker

__all__ = [
    "Itself",
    "Narrow",
    "Packing",
    "Projected",
    "Quantized",
    "Rebuilt",
    "Sampled",
    "Sparse",
    "Steps",
    "Tucker",
]
