"""What a CUDA reduction takes on the way: ATen's own rule.

A sum that has few results and many summands for each is shared out among blocks of threads, which leave what they found
in a scratch buffer; a semaphore for each tells who is last. The sizes follow from the launch (``setReduceConfig`` and
``ReduceConfig`` in ``aten/src/ATen/native/cuda/Reduce.cuh``), which follows from the card.
"""

from __future__ import annotations

from functools import lru_cache

from bsr_explorer.devices.gpus import Gpu

WARP, MOST_THREADS, VALUES = 32, 512, 4
LEAST_VALUES, MOST_VALUES = 16, 256
"""Values that one thread adds up, before blocks share the work."""


@lru_cache(maxsize=4096)
def sum_of_columns(rows: int, columns: int, gpu: Gpu, accumulator: int = 4) -> tuple[int, int]:
    """Bytes of the scratch and of the semaphores of a sum over the rows of a matrix (rows, columns) that lies row by
    row; zeros where blocks do not share.

    Args:
        accumulator: bytes of a number while it is added up.
    """
    vector = next(size for size in (VALUES, 2, 1) if columns % size == 0)
    wide = columns // vector
    most = MOST_THREADS // vector
    across, down = min(_power(wide), most), min(_power(rows), most)
    width = min(across, WARP)
    height = min(down, most // width)
    width = min(across, most // height)
    values, grid = rows, -(-wide // width)
    if values < min(height * LEAST_VALUES, MOST_VALUES):
        return 0, 0  # each row of threads has columns of its own
    values = -(-values // height)
    wanted = gpu.multiprocessors * (gpu.threads // (width * height))
    if height == 1 or values < MOST_VALUES or grid > wanted:
        return 0, 0
    shared = max(min(-(-wanted // grid), -(-values // LEAST_VALUES)), -(-values // MOST_VALUES))
    if shared == 1:
        return 0, 0
    return accumulator * columns * shared * width * vector, 4 * grid


def _power(number: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (max(1, number).bit_length() - 1)
