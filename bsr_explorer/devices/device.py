"""What a device is, to whoever counts bytes: how it allocates, and what its kernels and libraries do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bsr_explorer.devices.caching import AS_IT_IS, Caching
from bsr_explorer.devices.gpus import Gpu
from bsr_explorer.devices.reductions import sum_of_columns


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a training step runs on. The defaults are those of a plain CPU.

    Attributes:
        name: as ``--device`` and torch know it.
        gpu: the card, where it is one; kernels' scratch follows from it.
        title: as a sentence names it (``CUDA``).
        compared: with what predictions for it have been compared (``with …``), or that they have not (``not …``).
        caches: whether torch's caching allocator hands memory out, so that a step's peak and what is reserved follow
            from all that was taken and given back since the process began (``cost.cold``).
        granularity: the allocator rounds sizes up to a multiple of so many bytes.
        caching: how that allocator is set.
        context: bytes that a process holds on it beside what the allocator takes: an estimate (``gpus.CONTEXT``).
        number: bytes of a Python number that a kernel is given as a tensor; 0 where that tensor lies elsewhere.
        workspaces: bytes that its libraries take for themselves in the first step, and keep: for the first product of
            the forward and of the backward pass, by name.
        attention: the attention paths that exist on it.
        fused: the path that ``fused`` comes to in fp32.
        fused_in_16_bits: the same in 16 bits.
        statistics: number format of a norm's mean and inverse deviation; None: that of its weight.
        norms_take_both: whether a norm under autocast takes an input in 16 bits beside weights in 32, and gives back
            the input's format. If not, autocast casts the input.
        softmax: number format of a softmax under autocast; None: that of its input.
        loss_casts_scores: whether autocast casts the scores that a cross-entropy reads. If not, it casts their
            log-probabilities.
        concatenates_formats: whether tensors in several number formats are concatenated as they are under autocast.
        optimizer: how torch runs an optimiser by itself, one of ``cost.optimizers.IMPLEMENTATIONS``.
        optimizer_8bit: how the 8-bit optimiser runs.
        at_once: elements that are packed or unpacked at once (in whole images, and one at least), so that what this
            takes on the way stays in a processor's cache, or keeps a GPU busy, and off the peak.
        packs_rows: whether the rows of a sparse storage are packed many at once; if not, one after another.
        packs_fused: whether kernels of our own pack and unpack, where they work (``storages.fused``: few launches, and
            little taken on the way). Prediction and real tensors both follow it, so that they agree. CUDA's record says
            no until they have run on a real card; then this word is all that has to change.
    """

    name: str
    title: str
    gpu: Gpu | None = None
    compared: str = "not compared with real steps"
    caches: bool = False
    caching: Caching = AS_IT_IS
    granularity: int = 1
    context: int = 0
    number: int = 8
    workspaces: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    attention: tuple[str, ...] = ("fused", "math")
    fused: str = "fused"
    fused_in_16_bits: str = "fused"
    statistics: str | None = None
    norms_take_both: bool = True
    softmax: str | None = None
    loss_casts_scores: bool = True
    concatenates_formats: bool = False
    optimizer: str = "loop"
    optimizer_8bit: str = "loop"
    at_once: int = 2**18
    packs_rows: bool = False
    packs_fused: bool = False

    @property
    def workspace(self) -> int:
        """Bytes of all of them."""
        return sum(size for phase in self.workspaces.values() for size in phase.values())

    def rounded(self, size: int) -> int:
        """Bytes that the allocator hands out for so many."""
        return -(-size // self.granularity) * self.granularity

    def path(self, attention: str, dtype: str, packed: bool = False) -> str:
        """The attention path that really runs.

        Args:
            attention: a path; ``fused`` is what torch picks by itself.
            dtype: number format of queries, keys and values.
            packed: whether it runs as a function of ``storages`` that packs what it keeps: these call flash attention
                where torch would pick cuDNN's, which cannot be called by itself.
        """
        if attention != "fused":
            return attention
        picked = self.fused if dtype == "fp32" else self.fused_in_16_bits
        return "flash" if packed and picked == "cudnn" else picked

    def sum_scratch(self, rows: int, columns: int, width: int = 4) -> tuple[int, ...]:
        """Bytes of what a sum over the rows of a matrix (rows, columns) takes on the way, in order.

        Args:
            width: bytes of a number while it is added up.
        """
        if self.gpu is None:
            return ()
        return tuple(size for size in sum_of_columns(rows, columns, self.gpu, width) if size)

    def softmax_scratch(self, size: int) -> tuple[int, ...]:
        """Bytes of what a softmax of so many takes on the way back: a GPU's, its gradient times itself."""
        return (size,) if self.gpu is not None else ()
