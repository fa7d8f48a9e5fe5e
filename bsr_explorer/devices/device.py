"""What a device is, to whoever counts bytes: how it allocates, and what its kernels and libraries do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a training step runs on. The defaults are those of a plain CPU.

    Attributes:
        name: as ``--device`` and torch know it.
        title: as a sentence names it (``CUDA``).
        compared: with what predictions for it have been compared.
        granularity: the allocator rounds sizes up to a multiple of so many bytes.
        workspace: bytes that its libraries take for themselves in the first step, and keep.
        attention: the attention paths that exist on it.
        fused: the path that ``fused`` comes to in fp32.
        fused_in_16_bits: the same in 16 bits.
        statistics: number format of a norm's mean and inverse deviation; None: that of its weight.
        norms_take_both: whether a norm under autocast takes an input in 16 bits beside weights in 32, and gives back
            the input's format. If not, autocast casts the input.
        softmax: number format of a softmax under autocast; None: that of its input.
        optimizer: how torch runs an optimiser by itself, one of ``cost.optimizers.IMPLEMENTATIONS``.
        optimizer_8bit: how the 8-bit optimiser runs.
        at_once: elements that are packed or unpacked at once (in whole images, and one at least), so that what this
            takes on the way stays in a processor's cache, or keeps a GPU busy, and off the peak.
        packs_rows: whether the rows of a sparse storage are packed many at once; if not, one after another.
    """

    name: str
    title: str
    compared: str = "not compared with real steps"
    granularity: int = 1
    workspace: int = 0
    attention: tuple[str, ...] = ("fused", "math")
    fused: str = "fused"
    fused_in_16_bits: str = "fused"
    statistics: str | None = None
    norms_take_both: bool = True
    softmax: str | None = None
    optimizer: str = "loop"
    optimizer_8bit: str = "loop"
    at_once: int = 2**18
    packs_rows: bool = False

    def rounded(self, size: int) -> int:
        """Bytes that the allocator hands out for so many."""
        return -(-size // self.granularity) * self.granularity

    def path(self, attention: str, dtype: str) -> str:
        """The attention path that really runs.

        Args:
            attention: a path; ``fused`` is what torch picks by itself.
            dtype: number format of queries, keys and values.
        """
        if attention != "fused":
            return attention
        return self.fused if dtype == "fp32" else self.fused_in_16_bits
