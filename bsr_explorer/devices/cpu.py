"""CPUs, as torch runs on them with oneDNN."""

from __future__ import annotations

from bsr_explorer.devices.device import Device

CPU = Device(name="cpu", title="the CPU", compared="with the allocator's record of real steps on CPUs")
