"""How a step is run, beside what its tape says."""

from __future__ import annotations

from dataclasses import dataclass

CUDA_GRANULARITY = 512
"""CUDA's caching allocator hands out multiples of so many bytes."""

CUBLAS_WORKSPACE = 8_519_680
"""Bytes that cuBLAS takes at its first product (``CUBLAS_WORKSPACE_CONFIG`` left alone; [schema], and 32 MiB
on Hopper)."""


@dataclass(frozen=True)
class Setup:
    """How a step is run, beside what its tape says.

    Attributes:
        optimizer: key of ``cost.optimizers.OPTIMIZERS``.
        implementation: how torch runs it, one of ``cost.optimizers.IMPLEMENTATIONS``.
        device: ``cpu`` or ``cuda``.
        micro_batches: forward and backward passes a step; the tape is one of them.
        set_to_none: whether gradients are given back after a step, and not zeroed.
        scaler: whether a gradient scaler is at work (fp16).
    """

    optimizer: str = "adamw"
    implementation: str = "auto"
    device: str = "cpu"
    micro_batches: int = 1
    set_to_none: bool = True
    scaler: bool = False

    @property
    def gradients_stand(self) -> bool:
        """Whether gradients exist while a forward pass runs."""
        return self.micro_batches > 1 or not self.set_to_none

    @property
    def granularity(self) -> int:
        """The allocator rounds sizes up to a multiple of so many bytes."""
        return CUDA_GRANULARITY if self.device == "cuda" else 1

    @property
    def runs_as(self) -> str:
        """The implementation that ``auto`` comes to."""
        if self.optimizer == "adamw_8bit":  # it has one, and on CUDA that is a kernel
            return "fused" if self.device == "cuda" else "loop"
        if self.implementation != "auto":
            return self.implementation
        return "foreach" if self.device == "cuda" else "loop"


def device_bytes(setup: Setup) -> int:
    """What the device's libraries take for themselves."""
    return CUBLAS_WORKSPACE if setup.device == "cuda" else 0
