"""What ``PYTORCH_CUDA_ALLOC_CONF`` makes of torch's caching allocator.

Rules of torch's ``c10/core/AllocatorConfig.cpp``. A setting is followed, or it changes no bytes of a step, or it is
refused by its name: none is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

MiB = 2**20
ROUNDING, LARGE_SEGMENT = 512, 20 * MiB

VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Environment variables that torch reads: the first that is set."""


@dataclass(frozen=True)
class Caching:
    """How torch's allocator is set; the defaults are its own.

    Attributes:
        said: the variable and its value, where anything is set that changes what is reserved.
        expandable: whether there is one segment for small and one for large pieces, which grow by pages
            (``expandable_segments``).
        divisions: sizes are rounded up to one of so many steps from one power of two to the next
            (``roundup_power2_divisions``); 0: to ``ROUNDING`` only.
        max_split: blocks of at least so many bytes are not split, and serve only requests as large
            (``max_split_size_mb``); None: there is no such size.
        most_beyond: such a block serves a request only if it is less than so much larger
            (``max_non_split_rounding_mb``).
        refused: why predictions are refused, or empty.
    """

    said: str = ""
    expandable: bool = False
    divisions: int = 0
    max_split: int | None = None
    most_beyond: int = LARGE_SEGMENT
    refused: str = ""

    def rounded(self, size: int) -> int:
        """Bytes that are looked for where so many are asked for."""
        least = max(ROUNDING, -(-size // ROUNDING) * ROUNDING)
        if self.divisions <= 1 or size <= ROUNDING * self.divisions:
            return least
        step = (1 << size.bit_length() - 1) // self.divisions
        return -(-size // step) * step

    def serves(self, block: int, size: int) -> bool:
        """Whether a free block of so many bytes, which is large enough, may serve so many."""
        if self.max_split is None:
            return True
        if size < self.max_split:
            return block < self.max_split
        return block < size + self.most_beyond

    def splits(self, rest: int, size: int, small: bool) -> bool:
        """Whether a block is split of which so many bytes would be left.

        Args:
            small: whether it is one of those for at most 1 MiB.
        """
        if small or self.expandable:
            return rest >= ROUNDING
        return rest > MiB and (self.max_split is None or size < self.max_split)


AS_IT_IS = Caching()
"""Without settings."""


def caching(environ: Mapping[str, str]) -> Caching:
    """How the environment sets it."""
    variable = next((name for name in VARIABLES if name in environ), None)
    if variable is None:
        return AS_IT_IS
    text = environ[variable].replace(" ", "")
    made = AS_IT_IS
    for option in filter(None, _OPTIONS.split(text)):
        name, _, value = option.partition(":")
        try:
            made = _READ.get(name, _unknown)(made, value)
        except ValueError as reason:
            why = f"{variable}: {name}:{value} {reason}"
            return replace(made, refused=f"{why}; take it out of the variable to predict memory on CUDA")
    return made if made == AS_IT_IS else replace(made, said=f"{variable}={text}")


_OPTIONS = re.compile(r",(?![^\[]*\])")
"""Commas between options; those within brackets belong to a value."""

LEAST_SPLIT = LARGE_SEGMENT // MiB


def _expandable(made: Caching, value: str) -> Caching:
    if value not in ("True", "False"):
        raise ValueError("must be True or False")
    return replace(made, expandable=value == "True")


def _divisions(made: Caching, value: str) -> Caching:
    if value.startswith("["):
        raise ValueError("is a list, and the simulated allocator follows one number for all sizes")
    if not value.isdecimal() or int(value).bit_count() != 1:
        raise ValueError("must be a power of two")
    return replace(made, divisions=int(value))


def _mebibytes(value: str) -> int:
    if not value.isdecimal() or int(value) < LEAST_SPLIT:
        raise ValueError(f"must be a whole number of at least {LEAST_SPLIT}")
    return int(value) * MiB


def _native(made: Caching, value: str) -> Caching:
    if value != "native":
        raise ValueError("is another allocator, and only torch's native one is simulated")
    return made


def _refused(why: str) -> Callable[[Caching, str], Caching]:
    def read(made: Caching, value: str) -> Caching:
        raise ValueError(why)

    return read


_unknown = _refused("is no setting that is known here")


def _left(made: Caching, value: str) -> Caching:
    """It sets something else than what is reserved on the card: pinned memory of the host, locks, graphs, or where a
    process is stopped."""
    return made


_READ: dict[str, Callable[[Caching, str], Caching]] = {
    "expandable_segments": _expandable,
    "roundup_power2_divisions": _divisions,
    "max_split_size_mb": lambda made, value: replace(made, max_split=_mebibytes(value)),
    "max_non_split_rounding_mb": lambda made, value: replace(made, most_beyond=_mebibytes(value)),
    "backend": _native,
    "garbage_collection_threshold": _refused(
        "gives segments back by the size of the card and the age of blocks, which is not simulated"
    ),
    "large_segment_size_mb": _refused("changes the size of segments, which is not simulated"),
    **dict.fromkeys(
        (
            "release_lock_on_cudamalloc",
            "pinned_use_cuda_host_register",
            "pinned_num_register_threads",
            "pinned_reserve_segment_size_mb",
            "pinned_use_background_threads",
            "pinned_max_round_threshold_mb",
            "pinned_max_cached_size_mb",
            "graph_capture_record_stream_reuse",
            "per_process_memory_fraction",
        ),
        _left,
    ),
}
