"""How a step is run, as far as its tape does not say it: optimiser, device, micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from bsr_explorer.devices import Device, device_of


@dataclass(frozen=True)
class Setup:
    """How a step is run, beside what its tape says.

    Attributes:
        optimizer: key of ``cost.optimizers.OPTIMIZERS``.
        implementation: how torch runs it, one of ``cost.optimizers.IMPLEMENTATIONS``.
        device: key of ``devices.DEVICES``.
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
    def on(self) -> Device:
        """The device."""
        return device_of(self.device)

    @property
    def runs_as(self) -> str:
        """The implementation that ``auto`` comes to. (The 8-bit optimiser has one on each device.)"""
        if self.optimizer == "adamw_8bit":
            return self.on.optimizer_8bit
        return self.on.optimizer if self.implementation == "auto" else self.implementation
