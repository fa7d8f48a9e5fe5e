"""The table of devices, and a device from elsewhere that is predicted for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bsr_explorer.config import Config
from bsr_explorer.devices import (
    CPU,
    CUDA,
    DEVICES,
    Device,
    attention_paths,
    device_of,
    device_or_cpu,
    register,
)
from bsr_explorer.errors import UserError
from bsr_explorer.prediction import over_time, predict, tape_of

every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))


@every_device
def test_a_device_stands_under_its_name(device: Device) -> None:
    assert DEVICES[device.name] is device
    assert device_of(device.name) is device


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UserError, match=r"--device: unknown value 'tpu'.*choose from cpu, cuda"):
        device_of("tpu")


def test_a_device_without_a_record_runs_as_a_cpu() -> None:
    assert device_or_cpu("cuda") is CUDA
    assert device_or_cpu("meta") is CPU


# --- a device from elsewhere ----------------------------------------------------------------------------

NPU = Device(
    name="npu",
    title="the NPU",
    granularity=4096,
    workspaces={"forward": {"workspace": 10_000}},
    attention=("fused", "math", "tiled"),
    fused="tiled",
    statistics="fp32",
    optimizer="foreach",
)


@pytest.fixture
def npu() -> Iterator[None]:
    register(NPU)
    yield
    del DEVICES["npu"]


@pytest.mark.usefixtures("npu")
def test_a_device_from_elsewhere_is_predicted_for() -> None:
    config = Config("deit_t", 64, batch_size=2, method="bsr(blocks=(3,), keep={3: 0.5})", device="npu")
    tape = tape_of(config)
    assert tape.device == "npu"
    assert {op.attrs["path"] for op in tape if op.kind == "attention"} == {"tiled"}
    on_cpu = predict(replace(config, device="cpu", implementation="foreach"))
    there = predict(config)
    assert there.saved_bytes == on_cpu.saved_bytes
    assert there.peak_bytes > on_cpu.peak_bytes
    assert all(level.bytes % 4096 == 0 for level in over_time(config))


@pytest.mark.usefixtures("npu")
def test_its_kernels_may_be_chosen_where_they_exist() -> None:
    assert "tiled" in attention_paths()
    assert Config(device="npu", attention="tiled").attention == "tiled"
    with pytest.raises(
        UserError, match="'tiled' exists on the NPU only; choose fused or math, or --device npu"
    ):
        Config(attention="tiled")
    with pytest.raises(
        UserError, match="'flash' exists on CUDA only; choose fused or math or tiled, or --device"
    ):
        Config(device="npu", attention="flash")


@pytest.mark.usefixtures("npu")
def test_a_name_has_one_device() -> None:
    register(NPU)  # again: nothing changes
    with pytest.raises(UserError, match="the device 'npu' is registered with other values"):
        register(replace(NPU, granularity=1))
    assert DEVICES["npu"] is NPU


def test_an_installed_package_brings_a_device_by_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "from bsr_explorer.devices import Device\nTPU = Device(name='tpu', title='TPUs', granularity=64)\n"
    )
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bsr_explorer.devices]\ntpu = theirs:TPU\n")
    code = """from bsr_explorer.config import CHOICES, Config
print(*CHOICES['device'], Config(device='tpu').setup.on.rounded(65))"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split() == ["cpu", "cuda", "tpu", "128"], done.stderr
