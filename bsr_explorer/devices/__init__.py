"""Devices: one record each.

To add one, write its file and its line in ``DEVICES``; from another package, ``register`` it, or name it in an entry
point of the group ``bsr_explorer.devices``.
"""

from __future__ import annotations

from bsr_explorer.devices.cpu import CPU
from bsr_explorer.devices.cuda import CUDA, on
from bsr_explorer.devices.device import Device
from bsr_explorer.devices.gpus import GPUS, gpu_of
from bsr_explorer.errors import UserError, unknown
from bsr_explorer.extensions import add_found

DEVICES: dict[str, Device] = {
    "cpu": CPU,
    "cuda": CUDA,
}


def register(device: Device) -> None:
    """Let a device that is not the package's own be chosen by its name.

    Raises:
        UserError: another device has this name.
    """
    if DEVICES.setdefault(device.name, device) != device:
        raise UserError(
            f"the device {device.name!r} is registered with other values; give one of the two another name"
        )


def device_of(name: str) -> Device:
    """The device of this name; ``cuda/h100`` is CUDA on a card (see ``gpu_of``).

    Raises:
        UserError: there is none.
    """
    kind, _, card = name.partition("/")
    if kind not in DEVICES:
        raise unknown("--device", name, DEVICES)
    return on(gpu_of(card)) if card else DEVICES[kind]


def attention_paths() -> tuple[str, ...]:
    """The attention paths that exist on any device. ``fused`` is the kernel that torch picks by itself."""
    return tuple(dict.fromkeys(path for device in DEVICES.values() for path in device.attention))


def device_or_cpu(name: str) -> Device:
    """The device of a real tensor. One that has no record runs as a CPU does."""
    return DEVICES.get(name, CPU)


__all__ = [
    "CPU",
    "CUDA",
    "DEVICES",
    "GPUS",
    "Device",
    "attention_paths",
    "device_of",
    "device_or_cpu",
    "gpu_of",
    "register",
]

add_found("bsr_explorer.devices", DEVICES, Device)  # at the end: what is found may import what stands above
